"""A run folder belongs to one process at a time; the kernel lets go of it when that process dies, however it dies."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from decm.checkpoints.first_process import is_first

LOCK = ".lock"
_held: dict[Path, IO[str]] = {}


def lock(folder: Path) -> None:
    """Hold a run folder's lock until `unlock` or the end of this process. Raises ValueError if another one holds it."""
    place = folder.resolve()
    if place in _held or not is_first():
        return
    file = (folder / LOCK).open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        text = file.read()
        file.close()
        raise ValueError(
            f"Run folder {folder} is in use {_holder(text)}; a run has its folder for itself. Wait for that process "
            "or stop it (its checkpoints stay, and resume=auto goes on from them), or start a run of its own: "
            "without resume."
        ) from None
    except OSError as error:  # some shared file systems have no locks
        file.close()
        print(f"{folder} cannot be locked ({error.strerror}): take care that no other process writes in it.")
        return
    file.truncate(0)
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    file.write(json.dumps(owner))
    file.flush()
    _held[place] = file


def _holder(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"by process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError, TypeError):  # it has the lock, and has not written yet who it is
        return "by another process"


def unlock(folder: Path) -> None:
    """Release the lock of a folder that this process holds."""
    file = _held.pop(folder.resolve(), None)
    if file is not None:
        file.close()


def in_use(folder: Path) -> bool:
    """Whether a process, this one or another, holds the lock of a run folder."""
    if folder.resolve() in _held:
        return True
    try:
        with (folder / LOCK).open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock was ever taken, or the file system has none
        return False
    return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder inside the `with` block; a lock that this process held before stays held."""
    had = folder.resolve() in _held
    lock(folder)
    try:
        yield
    finally:
        if not had:
            unlock(folder)
