"""results.json: the scores of a student, and of its teacher, at each NFE."""

import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from decm import __version__
from decm.evaluation.devices import rank_and_world
from decm.evaluation.evaluator import Evaluator
from decm.evaluation.progress import EVALUATION, Job
from decm.evaluation.titles import PER_NFE
from decm.experiment.build import segment_names
from decm.experiment.dry_run import evaluation_rows, teacher_rows
from decm.experiment.protocols import EvaluationProtocol
from decm.flow.flow_map import FlowMap, observed


@dataclass
class EvaluationProgress:
    """Tells a job how far its evaluation is, by the rows that went through a network on all processes."""

    job: Job | None
    rows: float
    done: float = 0.0
    doing: str = ""

    def say(self, who: str, what: str) -> None:
        self.doing = f"{who}, {what}"
        if rank_and_world()[0] == 0:
            print(f"evaluating {self.doing}", flush=True)

    def counted(self, flow_map: FlowMap, cost: int) -> FlowMap:
        """The flow map; a row of it takes `cost` rows of a network."""

        def count(rows: int) -> None:
            rank, world_size = rank_and_world()
            self.done += cost * rows * world_size
            if self.job is not None and rank == 0:
                self.job.at(EVALUATION, min(1.0, self.done / self.rows), lambda: self.doing)

        return observed(flow_map, count)


def score_models(
    cfg: DictConfig,
    evaluator: Evaluator,
    protocol: EvaluationProtocol,
    student: FlowMap | None,
    teacher: FlowMap | None,
    job: Job | None = None,
) -> dict[str, Any] | None:
    """Scores of student and teacher, the floor (the metric of real data), and map errors if the exact map is known.

    None on processes but the first.

    The scores beside the metric are the student's, or the teacher's where there is no student. `job` learns how far
    the evaluation is.
    """
    e, names = cfg.evaluation, segment_names(cfg)
    shown = EvaluationProgress(job, evaluation_rows(cfg))

    def scores_of(flow_map: FlowMap | None, who: str, trained_on: list[str], cost: int) -> dict[str, dict[str, float]]:
        if flow_map is None:
            return {}
        scores = evaluator(shown.counted(flow_map, cost), e.nfe, e.num_samples, trained_on, partial(shown.say, who))
        return {str(nfe): score for nfe, score in (scores or {}).items()}

    students = scores_of(student, "student", names, 1)
    teachers = scores_of(teacher, "teacher", [], teacher_rows(cfg))
    errors = protocol.map_errors(student, evaluator.device) if protocol.map_errors and student else None
    if rank_and_world()[0]:
        return None
    results: dict[str, Any] = {
        "experiment": cfg.name,
        "seed": cfg.seed,
        "metric": protocol.judge.metric,
        "reference": protocol.judge.reference,
        "data": protocol.data,
        "num_samples": e.num_samples,
        "evaluation_seed": e.seed,
        "floor": protocol.judge.floor(e.num_samples),
        "samplers": {str(nfe): evaluator.sampler(nfe, names if student else []) for nfe in e.nfe},
        "teacher": {nfe: score["value"] for nfe, score in teachers.items()},
        "student": {nfe: score["value"] for nfe, score in students.items()},
    }
    scored = students or teachers
    for key in PER_NFE:
        if all(key in score for score in scored.values()):
            results[key] = {nfe: score[key] for nfe, score in scored.items()}
    if errors is not None:
        results["map_error"] = errors
    results["code_version"] = code_version()
    return results


def figures(results: dict[str, Any]) -> dict[str, float]:
    """The figures of results by the names that they are logged under."""
    named = {f"fd/{nfe}": value for nfe, value in results["student"].items()}
    named |= {f"teacher_fd/{nfe}": value for nfe, value in results["teacher"].items()}
    named |= {f"{key}/{nfe}": value for key in PER_NFE for nfe, value in results.get(key, {}).items()}
    return named | {f"map_error/{name}": value for name, value in results.get("map_error", {}).items()}


def costs(results: dict[str, Any]) -> dict[str, float]:
    """What a run took, by the names that it is logged under."""
    seconds = {f"seconds/{name}": value for name, value in results["seconds"].items()}
    return {**seconds, "forward_equivalents": results["forward_equivalents"]}


def code_version() -> str:
    """The package's version, and the commit where there is a checkout."""
    try:
        git = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
        return f"{__version__}+{git.stdout.strip()}"
    except (OSError, subprocess.SubprocessError):
        return __version__
