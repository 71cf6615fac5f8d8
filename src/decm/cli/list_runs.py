"""`decm runs`: what is there, a line a run."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from decm.cli.run_folders import all_runs, human, size_of, state_of
from decm.cli.runs import RESULTS, read_config, read_results

HEADER = ("run", "state", "seed", "step", "size", "NFE: figure (* the best of its experiment)")
Scores = dict[str, float]


def task(cfg: DictConfig) -> None:
    """Print the runs below `runs`, of one experiment or of all."""
    root = Path(cfg.runs)
    folders = all_runs(root)
    configs = {folder: read_config(folder) or {} for folder in folders}
    kept = [f for f in folders if cfg.name in (None, configs[f].get("name"))]
    if not kept:
        of = f" of experiment {cfg.name}" if cfg.name else ""
        print(f"No run{of} below {root} yet: make train.")
        return
    results = {folder: read_results(folder) if (folder / RESULTS).is_file() else {} for folder in kept}
    best = best_of([(str(configs[folder].get("name")), results[folder]) for folder in kept])
    rows = [row(root, folder, configs[folder], results[folder], best) for folder in kept]
    print("\n".join(aligned([HEADER, *rows])))


def scores_of(results: dict[str, Any]) -> Scores:
    """The figures that a run is told by: the student's, or the teacher's where there is no student."""
    return results.get("student") or results.get("teacher") or {}


def best_of(runs: list[tuple[str, dict[str, Any]]]) -> dict[tuple[str, str], float]:
    """The lowest figure by (experiment, NFE), where two runs or more have one."""
    found: dict[tuple[str, str], list[float]] = {}
    for name, results in runs:
        for nfe, value in scores_of(results).items():
            found.setdefault((name, nfe), []).append(value)
    return {key: min(values) for key, values in found.items() if len(values) > 1}


def row(
    root: Path, folder: Path, config: dict[str, Any], results: dict[str, Any], best: dict[tuple[str, str], float]
) -> tuple[str, ...]:
    """The columns of a run."""
    name = str(config.get("name"))
    figures = "  ".join(
        f"{nfe}: {value:.3f}{'*' if best.get((name, nfe)) == value else ''}"
        for nfe, value in scores_of(results).items()
    )
    step = f"{last_step(folder)}/{config.get('max_steps', '?')}"
    path = str(folder.relative_to(root))
    return path, state_of(folder), str(config.get("seed", "")), step, human(size_of(folder)), figures


def last_step(folder: Path) -> int:
    """The optimizer steps that metrics.csv has seen, from its last lines alone."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").splitlines()
    steps = [int(first) for first in (line.split(",", 1)[0] for line in lines[-20:]) if first.isdigit()]
    config_steps = (read_config(folder) or {}).get("max_steps", steps[-1] + 1 if steps else 0)
    return min(steps[-1] + 1, config_steps) if steps else 0


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """The rows as lines whose columns stand below each other."""
    widths = [max(len(cells[k]) for cells in rows) for k in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in rows]
