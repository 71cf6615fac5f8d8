"""`decm train`: teacher, distillation, evaluation, pictures, table."""

import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from decm.cli.bench import Bench
from decm.cli.build import build_bench, build_dataset, build_evaluator, segment_names
from decm.cli.checks import check_settings
from decm.cli.config import plain
from decm.cli.devices import pick_device
from decm.cli.dry_run import describe
from decm.cli.fit import Fitted, fit
from decm.cli.runs import open_folder, write_results
from decm.cli.scores import score_models
from decm.cli.teachers import Source, obtain
from decm.evaluation.evaluator import Evaluator
from decm.report.table import markdown, show
from decm.training.callbacks.tracking import finish, summarize

PICTURE_SAMPLES = 100


def task(cfg: DictConfig) -> float | None:
    """Run an experiment; returns the student's metric at its fewest steps, which sweepers minimize."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    settings = plain(cfg)
    check_settings(cfg)
    if cfg.dry_run:
        print("\n".join(describe(cfg)), flush=True)
        return None
    fixed, group = None, None
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        fixed = Path(HydraConfig.get().runtime.output_dir)
        group = f"{cfg.name}/{fixed.parent.name}"
    folder = open_folder(settings, cfg.resume, fixed)
    print(f"{cfg.name} in {folder}", flush=True)
    return run(cfg, folder, group)


def run(cfg: DictConfig, folder: Path, group: str | None = None) -> float | None:
    """Train in `folder`, evaluate, and write results.json, table.md and the pictures."""
    dataset = build_dataset(cfg)
    bench = build_bench(cfg, dataset)
    source = obtain(cfg, dataset, fit_teacher)
    fitted = fit(cfg, folder, dataset, source, bench, group)
    try:
        if not fitted.is_main:
            return None
        began = time.perf_counter()
        evaluator = build_evaluator(cfg, bench, dataset, pick_device(cfg.trainer.accelerator))
        fitted.module.to(evaluator.device).eval()
        results = score_models(cfg, evaluator, bench, fitted.module.ema_map, source.flow_map)
        results["seconds"] = {
            "teacher": source.seconds, "distill": fitted.seconds, "evaluate": time.perf_counter() - began,
        }  # fmt: skip
        results["teacher_reused"] = source.reused
        results["forward_equivalents"] = fitted.module.forward_equivalents
        finish_run(cfg, folder, results, fitted, draw(cfg, folder, evaluator, bench, fitted, source))
        return results["student"][str(min(cfg.evaluation.nfe))]
    finally:
        finish(fitted.loggers)


def fit_teacher(cfg: DictConfig, folder: Path) -> None:
    """Train a teacher in `folder`, without an evaluation of its own: the student's table has the teacher's rows."""
    dataset = build_dataset(cfg)
    fitted = fit(cfg, folder, dataset, obtain(cfg, dataset, fit_teacher))
    finish(fitted.loggers)
    if fitted.is_main:
        write_results(folder, {"experiment": cfg.name, "seed": cfg.seed, "seconds": {"distill": fitted.seconds}})


def draw(
    cfg: DictConfig, folder: Path, evaluator: Evaluator, bench: Bench, fitted: Fitted, source: Source
) -> dict[str, Path]:
    """Pictures: a grid for each NFE, and the same seeds side by side across NFE under the teacher's most steps."""
    e, names, painter = cfg.evaluation, segment_names(cfg), bench.painter
    pictures, rows = {}, {}
    if source.flow_map is not None:
        most = max(e.nfe)
        rows[f"teacher, {most}"] = evaluator.samples(source.flow_map, most, painter.columns, ())
    for nfe in e.nfe:
        samples = evaluator.samples(fitted.module.ema_map, nfe, max(PICTURE_SAMPLES, painter.columns), names)
        pictures[f"samples_nfe{nfe}"] = folder / f"samples_nfe{nfe}.png"
        painter.grid(samples, pictures[f"samples_nfe{nfe}"])
        rows[f"{nfe} step{'s' if nfe > 1 else ''}"] = samples[: painter.columns]
    pictures["comparison"] = folder / "comparison.png"
    painter.compare(rows, pictures["comparison"])
    return pictures


def finish_run(
    cfg: DictConfig, folder: Path, results: dict[str, Any], fitted: Fitted, pictures: dict[str, Path]
) -> None:
    """Write table and results (last, since they mark the run as finished), tell W&B, and show the table."""
    (folder / "table.md").write_text(markdown(results))
    figures = {f"fd/{nfe}": value for nfe, value in results["student"].items()}
    figures |= {f"teacher_fd/{nfe}": value for nfe, value in results["teacher"].items()}
    figures |= {f"map_error/{name}": value for name, value in results.get("map_error", {}).items()}
    summarize(fitted.loggers, figures, pictures)
    write_results(folder, results)
    show(results, {"pictures": str(folder / "comparison.png"), "table": str(folder / "table.md"), "run": str(folder)})
