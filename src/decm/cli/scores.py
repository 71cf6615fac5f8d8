"""results.json: the scores of a student, and of its teacher, at each NFE."""

import subprocess
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from decm import __version__
from decm.cli.bench import Bench
from decm.cli.build import segment_names
from decm.evaluation.evaluator import Evaluator
from decm.flow.flow_map import FlowMap
from decm.report.table import PER_NFE


def score_models(
    cfg: DictConfig, evaluator: Evaluator, bench: Bench, student: FlowMap, teacher: FlowMap | None
) -> dict[str, Any]:
    """Student, teacher and floor, and the errors of the maps where they are known."""
    e, names = cfg.evaluation, segment_names(cfg)

    def scores_of(flow_map: FlowMap, who: str, trained_on: list[str]) -> dict[str, dict[str, float]]:
        def say(what: str) -> None:
            print(f"evaluating {who}, {what}", flush=True)

        scores = evaluator(flow_map, e.nfe, e.num_samples, trained_on, say)
        return {str(nfe): score for nfe, score in scores.items()}

    students = scores_of(student, "student", names)
    teachers = scores_of(teacher, "teacher", []) if teacher else {}
    results: dict[str, Any] = {
        "experiment": cfg.name,
        "seed": cfg.seed,
        "metric": bench.judge.metric,
        "reference": bench.judge.reference,
        "num_samples": e.num_samples,
        "floor": bench.judge.floor(e.num_samples),
        "samplers": {str(nfe): evaluator.sampler(nfe, names) for nfe in e.nfe},
        "teacher": {nfe: score["value"] for nfe, score in teachers.items()},
        "student": {nfe: score["value"] for nfe, score in students.items()},
    }
    for key in PER_NFE:
        if all(key in score for score in students.values()):
            results[key] = {nfe: score[key] for nfe, score in students.items()}
    if bench.map_errors is not None:
        results["map_error"] = bench.map_errors(student, evaluator.device)
    results["code_version"] = code_version()
    return results


def code_version() -> str:
    """The package's version, and the commit where there is a checkout."""
    try:
        git = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
        return f"{__version__}+{git.stdout.strip()}"
    except (OSError, subprocess.SubprocessError):
        return __version__
