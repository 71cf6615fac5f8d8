"""A run's folder of checkpoints: step_<n>.ckpt, last.ckpt and best.ckpt as links; which one is the newest valid one."""

from collections.abc import Callable, Collection
from pathlib import Path

from decm.checkpoints.durable import OLD, PART, link, publish, remove
from decm.checkpoints.files import stored_step, verify
from decm.checkpoints.names import BEST, DAMAGED, LAST, name_of, step_of
from decm.checkpoints.sealed import DamagedError, print_once


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder by their step, the newest first."""
    found = [path for path in folder.glob("step_*.ckpt") if step_of(path) is not None]
    return sorted(found, key=lambda path: step_of(path) or 0, reverse=True)


def newest(folder: Path) -> Path | None:
    """last.ckpt, or the checkpoint of the latest step where there is no such link; unchecked. None if there is none."""
    return folder / LAST if (folder / LAST).exists() else next(iter(checkpoints(folder)), None)


def candidates(folder: Path) -> list[Path]:
    """What a run could go on from, the newest first: also a last.ckpt that is no link (in a copy)."""
    found, last = checkpoints(folder), folder / LAST
    if not last.exists() or last.is_symlink():
        return found
    try:
        step = stored_step(last)
    except DamagedError:
        return [last, *found]
    return sorted([last, *found], key=lambda path: step if path == last else step_of(path) or 0, reverse=True)


def newest_valid(folder: Path, say: Callable[[str], None] = print_once) -> Path | None:
    """The newest checkpoint that is not damaged; None if there is none. Damaged ones are named, and so is what is used.

    Every rank comes to the same answer, as nothing is written before all have one.
    """
    damaged = 0
    for path in candidates(folder):
        try:
            verify(path)
        except DamagedError as error:
            say(str(error))
            damaged += 1
            continue
        if damaged:
            say(f"Using the newest one that is whole instead: {path}")
        return path
    if damaged:
        say(f"No checkpoint in {folder} is whole ({damaged} damaged): nothing to go on from.")
    return None


def reset_to_step(folder: Path, step: int) -> None:
    """Before a run goes on at `step`: set aside what is newer (it was found damaged), have last.ckpt be a link."""
    last = folder / LAST
    if last.exists() and not last.is_symlink():
        try:
            publish(last, folder / name_of(stored_step(last)))
        except DamagedError:
            publish(last, folder / f"{LAST}{DAMAGED}")
    for path in checkpoints(folder):
        if (step_of(path) or 0) > step:
            publish(path, path.with_name(f"{path.name}{DAMAGED}"))
    if (folder / name_of(step)).exists():
        link(last, name_of(step))
    elif last.is_symlink():
        last.unlink()
    remove_leftovers(folder)


def prune(folder: Path, keep: int, best: int | None, spared: Collection[int] = ()) -> None:
    """Point last.ckpt and best.ckpt to the newest and to the one of step `best`.

    Removes all but the `keep` newest, the best, and those of the steps that are `spared`.
    """
    found = checkpoints(folder)
    link(folder / LAST, found[0].name)
    if best is not None and (folder / name_of(best)).exists():
        link(folder / BEST, name_of(best))
    elif (folder / BEST).is_symlink():
        (folder / BEST).unlink()
    for path in found[keep:]:
        if step_of(path) not in (best, *spared):
            remove(path)
    remove_leftovers(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed saves left."""
    for suffix in (PART, OLD):
        for path in folder.glob(f"*{suffix}"):
            remove(path)
