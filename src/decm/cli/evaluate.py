"""`decm evaluate`: score a checkpoint at several NFEs, into evaluation_<time>.json beside its results."""

import time
from typing import Any

from omegaconf import DictConfig

from decm.cli.build import build_bench, build_dataset, build_evaluator
from decm.cli.models import load_model, pick_device
from decm.cli.runs import TIME_FORMAT, write_results
from decm.cli.scores import score_models
from decm.report.table import markdown, show


def task(cfg: DictConfig) -> dict[str, Any]:
    """Evaluate as the run was, where nothing else is said; returns the results."""
    device = pick_device(cfg.device)
    model = load_model(cfg.checkpoint, device)
    run = model.cfg
    for key in ("num_samples", "seed", "batch_size"):
        if cfg[key] is not None:
            run.evaluation[key] = cfg[key]
    run.evaluation.nfe = cfg.nfe
    run.evaluation.samplers = {**(run.evaluation.samplers or {}), **(cfg.samplers or {})}
    began = time.perf_counter()
    dataset = build_dataset(run)
    bench = build_bench(run, dataset)
    evaluator = build_evaluator(run, bench, dataset, device)
    results = score_models(run, evaluator, bench, model.flow_map, None)
    results |= {
        "seconds": {"evaluate": time.perf_counter() - began},
        "checkpoint": str(model.checkpoint),
        "step": model.step,
    }
    folder, stamp = model.run_folder, time.strftime(TIME_FORMAT)
    write_results(folder, results, f"evaluation_{stamp}.json")
    (folder / f"evaluation_{stamp}.md").write_text(markdown(results))
    show(results, {"results": str(folder / f"evaluation_{stamp}.json")})
    return results
