"""results.json: the scores of a student, and of its teacher, at each NFE."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from omegaconf import DictConfig

from decm.checkpoints.code_version import code_version
from decm.evaluation.devices import rank_and_world
from decm.evaluation.evaluator import Evaluator
from decm.evaluation.progress import EVALUATION, Job
from decm.evaluation.titles import PER_NFE
from decm.experiment.build import segment_names
from decm.experiment.dry_run import evaluation_rows, teacher_rows
from decm.experiment.teacher_scores import TeacherScores
from decm.flow.flow_map import FlowMap, observed
from decm.protocols.protocol import EvaluationProtocol


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

    def scores(
        self,
        evaluator: Evaluator,
        flow_map: FlowMap | None,
        who: str,
        trained_on: list[str],
        cost: int,
        num_samples: int,
        nfes: Sequence[int],
    ) -> dict[int, dict[str, float]]:
        """Scores by NFE; none without a flow map."""
        if flow_map is None:
            return {}
        counted = self.counted(flow_map, cost)
        return evaluator(counted, nfes, num_samples, trained_on, partial(self.say, who)) or {}


def score_models(
    cfg: DictConfig,
    evaluator: Evaluator,
    protocol: EvaluationProtocol,
    student: FlowMap | None,
    teacher: FlowMap | None,
    job: Job | None = None,
    known: TeacherScores | None = None,
) -> dict[str, Any] | None:
    """Scores of student and teacher, the floor (the metric of real data), and map errors if the exact map is known.

    None on processes but the first.

    The scores beside the metric are the student's, or the teacher's where there is no student. `job` learns how far
    the evaluation is. What is `known` of the teacher is not made again.
    """
    e, names = cfg.evaluation, segment_names(cfg)
    shown = EvaluationProgress(job, evaluation_rows(cfg))
    students = shown.scores(evaluator, student, "student", names, 1, e.num_samples, e.nfe)
    of_teacher = partial(shown.scores, evaluator, teacher, "teacher", [], teacher_rows(cfg), e.num_samples)
    teachers = known.completed(evaluator, e.nfe, of_teacher) if known is not None else of_teacher(e.nfe)
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
        "teacher": {str(nfe): score["value"] for nfe, score in teachers.items()},
        "student": {str(nfe): score["value"] for nfe, score in students.items()},
    }
    scored = students or teachers
    for key in PER_NFE:
        if all(key in score for score in scored.values()):
            results[key] = {str(nfe): score[key] for nfe, score in scored.items()}
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
