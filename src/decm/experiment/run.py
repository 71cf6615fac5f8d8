"""A run from its settings to its results: teacher, distillation, evaluation, pictures, table."""

import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from decm.checkpoints.code_version import code_version
from decm.checkpoints.durable import write_text
from decm.checkpoints.first_process import is_first
from decm.data.loader import Dataset
from decm.evaluation.devices import pick_device, rank_and_world
from decm.evaluation.evaluator import Evaluator
from decm.evaluation.progress import EVALUATION, TEACHER, TRAINING, Job
from decm.evaluation.stored import forget, stored
from decm.experiment.build import build_dataset, build_evaluator, segment_names
from decm.experiment.dry_run import evaluation_rows, training_cost
from decm.experiment.fit import Fitted, fit, quiet
from decm.experiment.prepare import Prepared, check_writable, prepare
from decm.experiment.scores import costs, figures, score_models
from decm.experiment.teacher_scores import teacher_scores
from decm.experiment.teachers import TeacherBundle, load_or_train_teacher, matching_teachers
from decm.flow.exact import MixtureFlow
from decm.flow.flow_map import FlowMap
from decm.protocols.protocol import EvaluationProtocol
from decm.report.pictures import samples_by_seed
from decm.report.runs import try_page
from decm.report.table import markdown, show
from decm.runs.contents import by_content
from decm.runs.folders import (
    RESULTS,
    append_command,
    comparable_settings,
    metric,
    open_folder,
    read_config,
    save_data_metadata,
    write_results,
)
from decm.runs.locks import locked, unlock
from decm.settings.composition import plain
from decm.settings.words import job_command
from decm.training.callbacks.reliability.preemption import stopping_at_once
from decm.training.loggers import finish, log_table, summarize

PICTURE_SAMPLES = 100


def run_in(cfg: DictConfig, chosen: Path | None, group: str | None = None) -> float | None:
    """`run` in the folder `chosen`, or in a new one, which this process locks after all settings have been checked."""
    quiet()
    goes_on = chosen if chosen is not None and chosen.is_dir() else None
    if goes_on is not None:
        check_writable(goes_on)
    with locked(goes_on) if goes_on is not None else nullcontext():
        prepared = prepare(cfg, chosen)
        folder = open_folder(plain(cfg), chosen)
        if is_first():
            print(f"{cfg.name} in {folder}", flush=True)
            append_command(folder, job_command())
        try:
            return run(cfg, folder, prepared, group)
        finally:
            unlock(folder)


def run(cfg: DictConfig, folder: Path, prepared: Prepared, group: str | None = None) -> float | None:
    """Train in `folder`, evaluate, and write results.json, table.md and the pictures; None on processes but the first.

    Each process generates its share of the samples and extracts their features, the first one scores and writes.
    """
    dataset, protocol = prepared.dataset, prepared.protocol
    if is_first():
        save_data_metadata(folder, dataset.manifest.metadata())
    job = Job(cfg.name, stages(cfg, prepared.teacher))
    source = prepared.source or load_or_train_teacher(cfg, dataset, partial(fit_teacher, job=job), prepared.teacher)
    if not cfg.distill:
        with stopping_at_once():
            return score_teacher(cfg, folder, dataset, protocol, source, job)
    fitted = fit(cfg, folder, dataset, source, job, TRAINING, protocol, group)
    with stopping_at_once():
        return finish_run(cfg, folder, prepared, source, fitted, job)


def stages(cfg: DictConfig, teacher: DictConfig | None) -> dict[str, float]:
    """The stages of a run with their costs in forward-equivalents; the teacher's unless it is there already."""
    costs = {}
    if teacher is not None and not any((folder / RESULTS).is_file() for folder in matching_teachers(plain(teacher))):
        costs[TEACHER] = training_cost(teacher)
    if cfg.distill:
        costs[TRAINING] = training_cost(cfg)
    return {**costs, EVALUATION: evaluation_rows(cfg)}


def finish_run(
    cfg: DictConfig, folder: Path, prepared: Prepared, source: TeacherBundle, fitted: Fitted, job: Job
) -> float | None:
    """Evaluate what was trained, and write results, table and pictures; see `run`."""
    dataset, protocol = prepared.dataset, prepared.protocol
    try:
        began = time.perf_counter()
        evaluator = final_evaluator(cfg, folder, dataset, protocol, fitted.device)
        fitted.module.to(evaluator.device).eval()
        known = teacher_scores(Path(cfg.runs), folder, source, evaluator.device)
        results = score_models(cfg, evaluator, protocol, fitted.module.ema_map, source.flow_map, job, known)
        seconds = time.perf_counter() - began
        pictures = draw(cfg, folder, evaluator, protocol, fitted.module.ema_map, source.flow_map)
        if results is None:
            return None
        results["seconds"] = {"teacher": source.seconds, "distill": fitted.seconds, "evaluate": seconds}
        results["teacher_reused"] = source.reused
        if fitted.expected:
            results["expected"] = fitted.expected
        results["forward_equivalents"] = fitted.module.forward_equivalents
        summarize(fitted.loggers, {**figures(results), **costs(results)}, pictures)
        if fitted.loggers[1:]:
            log_table(
                fitted.loggers, "samples_by_seed", *samples_by_seed(pictures["comparison"], evaluator.num_classes)
            )
        write_run(folder, results, cfg.report)
        forget(evaluator)
        return metric(results)
    finally:
        finish(fitted.loggers)


def score_teacher(
    cfg: DictConfig, folder: Path, dataset: Dataset, protocol: EvaluationProtocol, source: TeacherBundle, job: Job
) -> float | None:
    """`distill=false`: score the teacher alone, as guided by these settings; returns its metric at its most steps."""
    assert source.teacher is not None  # by check_settings
    began = time.perf_counter()
    evaluator = final_evaluator(cfg, folder, dataset, protocol, pick_device(cfg.trainer.accelerator))
    if source.teacher.network is not None:
        source.teacher.network.to(evaluator.device)
    known = teacher_scores(Path(cfg.runs), folder, source, evaluator.device)
    results = score_models(cfg, evaluator, protocol, None, source.flow_map, job, known)
    seconds = time.perf_counter() - began
    draw(cfg, folder, evaluator, protocol, None, source.flow_map)
    if results is None:
        return None
    results["seconds"] = {"teacher": source.seconds, "evaluate": seconds}
    results["teacher_reused"] = source.reused
    write_run(folder, results, cfg.report)
    forget(evaluator)
    return metric(results)


def final_evaluator(
    cfg: DictConfig, folder: Path, dataset: Dataset, protocol: EvaluationProtocol, device: str
) -> Evaluator:
    """The evaluator after the training; that of several processes keeps what each makes until the scores are written.

    A run that is continued at its end comes to the same samples, so that they are known by settings and code alone.
    """
    evaluator = build_evaluator(cfg, protocol, dataset, device)
    if rank_and_world()[1] == 1:
        return evaluator
    settings = read_config(folder) or {}  # of the first process: all must come to the same name
    return stored(evaluator, folder, {"settings": comparable_settings(by_content(settings)), "code": code_version()})


def fit_teacher(cfg: DictConfig, folder: Path, job: Job) -> None:
    """Train a teacher in `folder`, without an evaluation of its own: the student's table has the teacher's rows."""
    dataset = build_dataset(cfg)
    source = load_or_train_teacher(cfg, dataset, partial(fit_teacher, job=job))
    fitted = fit(cfg, folder, dataset, source, job, TEACHER)
    finish(fitted.loggers)
    if fitted.is_main:
        write_results(folder, {"experiment": cfg.name, "seed": cfg.seed, "seconds": {"distill": fitted.seconds}})


def draw(
    cfg: DictConfig,
    folder: Path,
    evaluator: Evaluator,
    protocol: EvaluationProtocol,
    student: FlowMap | None,
    teacher: FlowMap | None,
) -> dict[str, Path]:
    """Pictures: a grid for each NFE, and the same seeds side by side across NFE under the teacher's most steps.

    All processes generate, the first one draws.
    """
    e, names, painter = cfg.evaluation, segment_names(cfg), protocol.painter
    pictures: dict[str, Path] = {}
    rows: dict[str, Tensor] = {}
    if teacher is not None:
        most = max(e.nfe)
        samples = evaluator.samples(teacher, most, painter.columns, ())
        if samples is not None:
            rows[f"teacher, {most}"] = samples
    for nfe in e.nfe:
        if student is None:
            break
        samples = evaluator.samples(student, nfe, max(PICTURE_SAMPLES, painter.columns), names)
        if samples is not None:
            pictures[f"samples_nfe{nfe}"] = folder / f"samples_nfe{nfe}.png"
            painter.grid(samples, pictures[f"samples_nfe{nfe}"])
            rows[f"{nfe} step{'s' if nfe > 1 else ''}"] = samples[: painter.columns]
    if rows:
        pictures["comparison"] = folder / "comparison.png"
        painter.compare(rows, pictures["comparison"])
    exact = protocol.map_errors.exact if protocol.map_errors is not None else None
    if cfg.report and student is not None and isinstance(exact, MixtureFlow):
        draw_movie(folder, evaluator, exact, student)
    return pictures


def draw_movie(folder: Path, evaluator: Evaluator, exact: MixtureFlow, student: FlowMap) -> None:
    """flow.webp: the learned flow map beside the exact one. All processes call the student, the first one draws."""
    from decm.report.movie import exact_tracks, learned_tracks, write_movie
    from decm.report.page import MOVING

    z, learned = learned_tracks(student, evaluator.shape, evaluator.seed, evaluator.device)
    if rank_and_world()[0] == 0:
        write_movie(learned, exact_tracks(exact, z), folder / MOVING)


def write_run(folder: Path, results: dict[str, Any], report: bool) -> None:
    """Write table and results, show the table, and draw the page.

    The results mark the run as finished, so that they come when all that needs the model is written; the page needs
    the folder alone and comes last, so that an error while drawing it loses no results.
    """
    write_text(folder / "table.md", markdown(results))
    write_results(folder, results)
    show(results, {"pictures": str(folder / "comparison.png"), "table": str(folder / "table.md"), "run": str(folder)})
    if report:
        try_page(folder)
