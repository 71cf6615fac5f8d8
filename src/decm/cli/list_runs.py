"""`decm runs`: what is there, a line a run."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from decm.runs.folders import judged_by
from decm.runs.run import Run
from decm.runs.state import all_runs, human, look, size_of

HEADER = ("run", "state", "seed", "step", "size", "NFE: figure (* the best of its experiment)")
Scores = dict[str, float]


def task(cfg: DictConfig) -> None:
    """Print the runs below `runs`, of one experiment or of all."""
    root = Path(cfg.runs)
    looks = [look(folder) for folder in all_runs(root)]
    kept = [(run, damage) for run, damage in looks if cfg.name in (None, name_of(root, run))]
    if not kept:
        of = f" of experiment {cfg.name}" if cfg.name else ""
        print(f"No run{of} below {root} yet: make train.")
        return
    best = best_of([(name_of(root, run), run.results or {}) for run, _ in kept])
    rows = [row(root, run, damage, best) for run, damage in kept]
    print("\n".join(aligned([HEADER, *rows])))


def name_of(root: Path, run: Run) -> str:
    """The experiment; of a run whose settings cannot be read, the folder that is named after it."""
    return str(run.config.get("name", run.folder.relative_to(root).parts[0]))


def scores_of(results: dict[str, Any]) -> Scores:
    """The figures that a run is listed with: the student's, or the teacher's where there is no student."""
    return results.get("student") or results.get("teacher") or {}


def best_of(runs: list[tuple[str, dict[str, Any]]]) -> dict[tuple[str, ...], float]:
    """The lowest figure by (experiment, NFE, what it is judged by), where two runs or more have one."""
    found: dict[tuple[str, ...], list[float]] = {}
    for name, results in runs:
        for nfe, value in scores_of(results).items():
            found.setdefault((name, nfe, *judged_by(results)), []).append(value)
    return {key: min(values) for key, values in found.items() if len(values) > 1}


def row(root: Path, run: Run, damage: str, best: dict[tuple[str, ...], float]) -> tuple[str, ...]:
    """The columns of a run; where it is damaged, how, in place of its figures."""
    name, results = name_of(root, run), run.results or {}
    figures = "  ".join(
        f"{nfe}: {value:.3f}{'*' if best.get((name, nfe, *judged_by(results))) == value else ''}"
        for nfe, value in scores_of(results).items()
    )
    step = f"{run.last_step()}/{run.config.get('max_steps', '?')}"
    path = str(run.folder.relative_to(root))
    return path, run.state, str(run.config.get("seed", "")), step, human(size_of(run.folder)), damage or figures


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """The rows as lines whose columns stand below each other."""
    widths = [max(len(cells[k]) for cells in rows) for k in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in rows]
