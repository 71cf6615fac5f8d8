"""`decm clean`: old checkpoints and W&B folders of finished runs; nothing else, and nothing unasked."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from decm.cli.locks import in_use, locked
from decm.cli.run_folders import all_runs, human, size_of, state_of
from decm.cli.runs import LAST, read_config
from decm.report.run_files import FINISHED, RUNNING
from decm.training.checkpoint_folder import BEST, DAMAGED, checkpoints
from decm.training.durable import remove


@dataclass(frozen=True)
class Waste:
    """Something of a run that can go."""

    run: Path
    path: Path
    size: int
    note: str = ""


def task(cfg: DictConfig) -> None:
    """List what can go, and with dry_run=false remove it after a yes."""
    root = Path(cfg.runs)
    found = list(waste(root, cfg.checkpoints, cfg.wandb))
    for one in found:
        print(f"{human(one.size):>8}  {one.path}{one.note}")
    total = human(sum(one.size for one in found))
    if not found:
        print(f"Nothing to remove below {root}: finished runs keep their last and best checkpoint and all results.")
    elif cfg.dry_run:
        print(f"{total} in {len(found)} places could go; dry_run=false removes them.")
    elif cfg.yes or confirmed(f"Remove {total} in {len(found)} places? [y/N] "):
        freed = sum(one.size for one in found if removed(one))
        print(f"{human(freed)} removed.")
    else:
        print("Nothing was removed.")


def waste(root: Path, old_checkpoints: bool, wandb: bool) -> Iterator[Waste]:
    """What can go of the finished runs below `root`; what another run needs, as its teacher, stays."""
    folders = all_runs(root)
    needed = [place for folder in folders for place in teachers_of(folder, root)]
    for folder in folders:
        if state_of(folder) != FINISHED or in_use(folder) or any(_touches(folder, place) for place in needed):
            continue
        if old_checkpoints:
            for path in spare(folder / LAST.parent):
                yield Waste(folder, path, size_of(path))
        if wandb and (folder / "wandb").is_dir():
            unsent = [path for path in (folder / "wandb").glob("offline-run-*") if not list(path.glob("*.synced"))]
            yield Waste(folder, folder / "wandb", size_of(folder / "wandb"), " (not uploaded)" if unsent else "")


def spare(folder: Path) -> list[Path]:
    """The checkpoints that neither last.ckpt nor best.ckpt means, if last.ckpt means one at all."""
    named = {link.resolve() for link in (folder / LAST.name, folder / BEST) if link.exists()}
    if not (folder / LAST.name).exists():
        return []
    return [path for path in (*checkpoints(folder), *folder.glob(f"*{DAMAGED}")) if path.resolve() not in named]


def teachers_of(folder: Path, root: Path) -> list[Path]:
    """Where the teacher of a run lies that is not finished: a file or a folder of runs; [] for all others."""
    config: dict[str, Any] = read_config(folder) or {}
    teacher = config.get("teacher") or {}
    if state_of(folder) == FINISHED:
        return []
    if teacher.get("kind") == "checkpoint" and teacher.get("path"):
        return [Path(str(teacher["path"])).absolute()]
    running = state_of(folder) == RUNNING
    return [(root / str(teacher["experiment"])).absolute()] if running and teacher.get("kind") == "auto" else []


def _touches(folder: Path, place: Path) -> bool:
    """Whether a run folder holds `place`, or lies in it."""
    run = folder.absolute()
    return place.resolve().is_relative_to(run.resolve()) or run.resolve().is_relative_to(place.resolve())


def confirmed(question: str) -> bool:
    """Whether a person says yes. Raises ValueError where there is nobody to ask."""
    if not sys.stdin.isatty():
        raise ValueError("dry_run=false asks before it removes anything, and there is no terminal: set yes=true.")
    return input(question).strip().lower() in ("y", "yes")


def removed(one: Waste) -> bool:
    """Remove it while no other process has its run; whether that was so."""
    try:
        with locked(one.run):
            remove(one.path)
            return True
    except ValueError as error:  # it was started anew in the meantime
        print(error)
        return False
