"""All run folders below a root, in which state each is, and its size on the disk."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from decm.runs.folders import CONFIG, RESULTS, read_config, read_results
from decm.runs.locks import in_use
from decm.runs.run import DAMAGED, FINISHED, RUNNING, UNFINISHED, Run

NOT_RUNS = ("cache", "checkpoints", "wandb")  # folders beside runs and in them, where no runs are looked for


def all_runs(root: Path) -> list[Path]:
    """Every run folder below `root`, those of sweeps too, by path. Raises ValueError if `root` is no folder."""
    if not root.is_dir():
        raise ValueError(f"runs={root} is no folder; expected the one that runs are written to.")
    return sorted(_below(root, ()), key=lambda folder: folder.parts)


def _below(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """The run folders at any depth below a folder, through links too; a loop of links is left."""
    here = folder.resolve()
    if here in above:
        return
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in NOT_RUNS or not path.is_dir():
            continue
        if (path / CONFIG).is_file():
            yield path
        else:
            yield from _below(path, (*above, here))


def state_of(folder: Path) -> str:
    """finished (it has results), running (a process has its lock), or unfinished."""
    if (folder / RESULTS).is_file():
        return FINISHED
    return RUNNING if in_use(folder) else UNFINISHED


def look(folder: Path) -> tuple[Run, str]:
    """(the run of a folder, what of it is damaged); of a damaged one, the settings alone if they can be read."""
    config: dict[str, Any] = {}
    try:
        config = read_config(folder) or {}
        results = read_results(folder) if (folder / RESULTS).is_file() else None
    except ValueError as error:
        return Run(folder, config, {}, None, DAMAGED), str(error)
    return Run(folder, config, {}, results, state_of(folder)), ""


def size_of(path: Path) -> int:
    """Bytes of a file or of all files below a folder; links count as nothing."""
    return sum(file.lstat().st_size for file in _files(path) if not file.is_symlink())


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
    for folder, _, names in os.walk(path):
        yield from (Path(folder, name) for name in names)


def human(size: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
