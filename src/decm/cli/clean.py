"""`decm clean`: old checkpoints and W&B folders of finished runs; nothing else, and nothing unasked."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from decm.checkpoints.durable import remove
from decm.checkpoints.folder import checkpoints
from decm.checkpoints.names import BEST, CHECKPOINTS, DAMAGED, LAST
from decm.runs.locks import in_use, locked
from decm.runs.run import FINISHED, RUNNING, Run
from decm.runs.state import all_runs, human, look, size_of


@dataclass(frozen=True)
class Waste:
    """Something of a run that can go."""

    run: Path
    path: Path
    size: int
    unsent: bool = False


def task(cfg: DictConfig) -> None:
    """List what can go, and with dry_run=false remove it after a yes."""
    root = Path(cfg.runs)
    everything = list(waste(root, cfg.checkpoints, cfg.wandb))
    found = [one for one in everything if cfg.unsent or not one.unsent]
    for one in found:
        print(f"{human(one.size):>8}  {one.path}{' (not uploaded)' if one.unsent else ''}")
    kept = len(everything) - len(found)
    if kept:
        print(f"W&B folders that were not uploaded stay: {kept}. `wandb sync` sends them; unsent=true takes them too.")
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
    """What can go of the finished runs below `root`; what another run needs, or a link leads to, stays."""
    runs = [look(folder)[0] for folder in all_runs(root)]
    below = {run.folder.resolve() for run in runs}
    beside = {folder.resolve() for place in set(map(root_of, runs)) for folder in all_runs(place)} - below
    needed = [place for run in (*runs, *(look(folder)[0] for folder in beside)) for place in needed_by(run)]
    for run in runs:
        folder = run.folder
        if run.state != FINISHED or in_use(folder) or any(_touches(folder, place) for place in needed):
            continue
        if old_checkpoints and not _linked(folder / CHECKPOINTS, root):
            for path in spare(folder / CHECKPOINTS):
                yield Waste(folder, path, size_of(path))
        logs = folder / "wandb"
        if wandb and logs.is_dir() and not _linked(logs, root):
            unsent = any(not list(path.glob("*.synced")) for path in logs.glob("offline-run-*"))
            yield Waste(folder, logs, size_of(logs), unsent)


def spare(folder: Path) -> list[Path]:
    """The checkpoints that neither last.ckpt nor best.ckpt means, if last.ckpt means one at all."""
    named = {link.resolve() for link in (folder / LAST, folder / BEST) if link.exists()}
    if not (folder / LAST).exists():
        return []
    return [path for path in (*checkpoints(folder), *folder.glob(f"*{DAMAGED}")) if path.resolve() not in named]


def root_of(run: Run) -> Path:
    """The folder of all runs in which a run lies: `<root>/<name>/<time>` or `<root>/<name>/multirun/<time>/<job>`."""
    above = run.folder.absolute().parents
    return next((p.parent for p in (above[0], *above[2:3]) if p.name == run.config.get("name")), above[0])


def needed_by(run: Run) -> list[Path]:
    """Files and folders that a run starts from which is not finished: its teacher and `warm_start`."""
    if run.state == FINISHED:
        return []
    found, teacher = [run.config.get("warm_start")], run.config.get("teacher")
    if isinstance(teacher, dict) and teacher.get("kind") == "checkpoint":
        found.append(teacher.get("path"))
    if isinstance(teacher, dict) and teacher.get("kind") == "auto" and run.state == RUNNING:
        found.append(root_of(run) / str(teacher.get("experiment")))
    above = (Path.cwd(), *run.folder.absolute().parents)  # where the run may have been started
    return [Path(folder, str(place)) for place in found if place for folder in above]


def _linked(path: Path, root: Path) -> bool:
    """Whether a link below `root` leads to `path`: what it means lies elsewhere, or has a name of its own."""
    return path.resolve() != root.resolve() / path.relative_to(root)


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
