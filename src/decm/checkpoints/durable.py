"""Atomic writes that survive a crash: a temporary file in the same folder, fsync, rename; the error if that fails."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PART, OLD = ".part", ".old"  # what a killed save may leave beside; never read, removed by the next one
NO_LINKS = (errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS)  # exFAT, some network drives
FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "files may not grow so big",
}


class SaveError(OSError):
    """A checkpoint could not be written; the message says why, what stays and what to do."""


def beside(path: Path, suffix: str) -> Path:
    """The name of `path` with a suffix more."""
    return path.with_name(f"{path.name}{suffix}")


def sync(path: Path) -> None:
    """Have a file's or a folder's own entries on the disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there; a folder under another name first, so that it goes at once."""
    if path.is_dir() and not path.is_symlink():
        old = path if path.suffix in (PART, OLD) else beside(path, OLD)
        if old != path:
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        shutil.rmtree(old, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def publish(part: Path, path: Path) -> None:
    """Rename the complete file or folder `part` to `path`, and replace what is there."""
    if path.is_dir() or (part.is_dir() and path.exists()):
        remove(beside(path, OLD))
        path.rename(beside(path, OLD))
    part.replace(path)
    sync(path.parent)
    remove(beside(path, OLD))


def write_text(path: Path, text: str) -> None:
    """Write a small file in UTF-8, whole or not at all. Raises IsADirectoryError in place of a folder, which stays.

    Paths that the locale could not decode are written as the bytes that they are.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected a file, or a new name.")
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8", errors="surrogateescape"))


def check_place(path: Path, setting: str = "out") -> None:
    """Raise ValueError, by the setting's name, unless a file or folder can be written at `path`; makes nothing."""
    there = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise ValueError(f"{setting}={path} cannot be written, for {there}: {error.strerror}.") from error


def write_whole(path: Path, write: Callable[[Path], object], durable: bool = True) -> None:
    """Have `write(part)` write a file under a name of this process's own, then give it its name; whole or not at all.

    It is on the disk before, unless it need not survive a crash of the machine (`durable=False`), and as readable as
    any new file of this user (safetensors' are for their owner alone).
    """
    part = beside(path, f".{os.getpid()}{PART}")
    try:
        part.touch()
        mode = part.stat().st_mode
        write(part)
        part.chmod(mode)
        if durable:
            sync(part)
            publish(part, path)
        else:
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def save_npz(path: Path, **arrays: Any) -> None:
    """numpy.savez under exactly this name: it adds an ending to a name that has another one."""
    import numpy as np

    with path.open("wb") as file:
        np.savez(file, **arrays)


def link(path: Path, target: str) -> None:
    """Make `path` a relative symbolic link to `target`, at once; nothing on a file system without such links."""
    part = beside(path, PART)
    remove(part)
    try:
        part.symlink_to(target)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return
    part.replace(path)
    sync(path.parent)


def cause(error: BaseException | None) -> OSError | None:
    """The operating system's error behind an exception, if there is one."""
    while error is not None and not isinstance(error, OSError):
        failures = getattr(error, "failures", None)  # of torch.distributed.checkpoint, by rank
        error = next((e for e, _ in failures.values()), None) if failures else error.__cause__ or error.__context__
    return error


def save_error(path: Path, needed: int, error: OSError) -> SaveError:
    """What to tell about a checkpoint of about `needed` bytes that could not be written."""
    folder = next(parent for parent in path.parents if parent.exists())
    why, do = error.strerror or str(error), f"Make {folder} writable"
    if error.errno in FULL:
        free = shutil.disk_usage(folder).free
        why = f"{FULL[error.errno]}: {free:,} bytes are free, about {needed:,} are needed"
        do = "Free some space, or set trainer.keep lower"
    older = sorted((p.name for p in path.parent.glob("step_*.ckpt") if p.name != path.name), reverse=True)
    stays = f"The one before it stays: {path.parent / older[0]}." if older else "There is none before it."
    return SaveError(f"Checkpoint {path} cannot be written: {why}. {stays} {do}, then go on with resume=auto.")


@contextmanager
def saving(path: Path, needed: int) -> Iterator[None]:
    """Inside the `with` block, an error that prevents writing `path` becomes SaveError; partial files are removed."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # torch.distributed.checkpoint's is no Exception
        with suppress(OSError):
            remove(beside(path, PART))
        found = cause(error)
        if found is None or isinstance(found, SaveError):
            raise
        raise save_error(path, needed, found) from error
