"""`decm evaluate`: score a checkpoint at several NFEs, into evaluation_<time>.json beside its results.

Under torchrun all processes generate samples and extract their features, and the first one compares those with the
reference. Both are kept until the scores are written, so that an evaluation that was cut off goes on where it was.
"""

import os
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from decm.checkpoints.durable import check_place, write_text
from decm.checkpoints.strict import load_strictly
from decm.data.loader import Dataset
from decm.evaluation.devices import pick_device
from decm.evaluation.evaluator import Evaluator
from decm.evaluation.stored import StoredEvaluator, forget, stored, write_pictures
from decm.experiment.build import build_evaluator, build_protocol, made, segment_names
from decm.experiment.checks import check_evaluation, check_num_samples
from decm.experiment.models import Model, load_model
from decm.experiment.scores import figures, score_models
from decm.protocols.pictures import FEATURES
from decm.protocols.protocol import EvaluationProtocol
from decm.report.table import markdown, show
from decm.runs.folders import new_evaluation, read_config, write_results
from decm.training.callbacks.method.ema_snapshots import find_snapshots, reconstruct
from decm.training.loggers import add_to_summary

OWN_PICTURES = "decm.protocols.pictures.own_pictures"


def task(cfg: DictConfig) -> dict[str, Any] | None:
    """Evaluate as the run was, except for what the command sets. The results; None on processes but the first."""
    device = pick_device(cfg.device)
    model = load_model(cfg.checkpoint, device)
    run = configure(model.cfg, cfg)
    check_evaluation(run)
    folder = folder_of_results(model, cfg.out)
    if run.trainer.threads:  # the run's own figures were made so
        torch.set_num_threads(run.trainer.threads)
    if cfg.ema_sigma_rel is not None:
        use_average(model, cfg.ema_sigma_rel)
    began = time.perf_counter()
    dataset = same_data(run, model)
    protocol = build_protocol(run, dataset)
    check_num_samples(run.evaluation, protocol.judge, prefix="")
    pixels = getattr(protocol.painter, "to_pixels", None)
    if cfg.save is not None and pixels is None:
        raise ValueError("save=npz: the samples of this run are no pictures.")
    folder.mkdir(parents=True, exist_ok=True)
    evaluator = build_stored(run, protocol, dataset, model, folder, cfg.ema_sigma_rel)
    results = score_models(run, evaluator, protocol, model.flow_map, None)
    if results is None:
        return None
    results |= {
        "seconds": {"evaluate": time.perf_counter() - began},
        "labels": f"balanced: sample i has class i mod {max(1, evaluator.num_classes)}",
        "checkpoint": str(model.checkpoint),
        "step": model.step,
    }
    if cfg.ema_sigma_rel is not None:
        results["ema_sigma_rel"] = cfg.ema_sigma_rel
    name = new_evaluation(folder)
    if cfg.save is not None:
        results["files"] = {}
        for nfe in run.evaluation.nfe:
            path = folder / f"{name}_nfe{nfe}.npz"
            samples = evaluator.samples(model.flow_map, nfe, run.evaluation.num_samples, segment_names(run))
            write_pictures(path, samples, pixels)  # type: ignore[arg-type]
            results["files"][str(nfe)] = path.name
    write_results(folder, results, f"{name}.json")
    write_text(folder / f"{name}.md", markdown(results))
    forget(evaluator)
    if cfg.out is None:
        add_to_wandb(folder, results)
    show(results, {"results": str(folder / f"{name}.json")})
    return results


def folder_of_results(model: Model, out: str | None) -> Path:
    """Where the figures go: `out`, made later, or the run's folder. Raises ValueError if none is writable."""
    folder = model.run_folder if out is None else Path(out)
    try:
        check_place(folder / "evaluation.json")
    except ValueError as error:
        raise ValueError(f"{error} Set out=<another folder>.") from error
    return folder


def add_to_wandb(folder: Path, results: dict[str, Any]) -> None:
    """Put the figures into the summary of the run's W&B run, if it has one, beside the figures of its own end."""
    settings = read_config(folder)
    if settings is not None:
        average = f"/sigma_rel_{results['ema_sigma_rel']}" if "ema_sigma_rel" in results else ""
        named = {f"evaluation{average}/{name}": value for name, value in figures(results).items()}
        add_to_summary(settings, folder, named)


def configure(run: DictConfig, cfg: DictConfig) -> DictConfig:
    """The run's configuration with the settings of `decm evaluate`. Raises ValueError for one without an effect."""
    if cfg.save not in (None, "npz"):
        raise ValueError(f"save={cfg.save!r} is unknown; expected npz.")
    for key in ("num_samples", "seed", "batch_size"):
        if cfg[key] is not None:
            run.evaluation[key] = cfg[key]
    run.evaluation.nfe = cfg.nfe
    run.evaluation.samplers = {**(run.evaluation.samplers or {}), **(cfg.samplers or {})}
    if cfg.data.path is not None:
        if "path" not in run.data:
            raise ValueError(f"data.path={cfg.data.path} has no effect: the data of this run are {run.data._target_}.")
        run.data.path = cfg.data.path
    if str(run.evaluation.protocol._target_).endswith(".unjudged"):
        if cfg.features not in FEATURES:
            raise ValueError(
                f"This run was made with evaluation=none: set features={' or '.join(FEATURES)} to judge it."
            )
        run.evaluation.protocol = {"_target_": OWN_PICTURES, "features": cfg.features}
    protocol = run.evaluation.protocol
    given = [key for key in ("reference", "features", "weights") if cfg[key] is not None]
    ignored = [key for key in given if key not in protocol]
    if ignored:
        raise ValueError(
            f"{ignored[0]}={cfg[ignored[0]]} has no effect: the protocol of this run is {protocol._target_}."
        )
    if cfg.features is not None and "weights" in protocol:
        protocol.weights = None  # the old features'
    for key in given:
        protocol[key] = cfg[key]
    if cfg.features is not None and cfg.reference is None and protocol.get("reference") and cfg.features != "inception":
        raise ValueError(
            f"features={cfg.features}: the run's reference {protocol.reference} is of other features. Set reference=..."
        )
    return run


def same_data(run: DictConfig, model: Model) -> Dataset:
    """The run's data set. Raises ValueError unless its content is that which the model was trained on."""
    dataset: Dataset = made(run.data)
    found, expected = dataset.manifest, model.manifest
    if found.content_hash != expected.content_hash:
        where = f"data.path={run.data.path}" if "path" in run.data else f"The set of {run.data._target_}"
        raise ValueError(
            f"{where} holds {found.name!r} of content {found.content_hash[:12]}..., and the model of "
            f"{model.checkpoint} was trained on {expected.name!r} of content {expected.content_hash[:12]}.... "
            "Set data.path to that set."
        )
    return dataset


def use_average(model: Model, sigma_rel: float) -> None:
    """Put the power-law average of this width, reconstructed at the checkpoint's step, into the model."""
    snapshots = find_snapshots(model.run_folder)
    last = max(snapshot.step for snapshot in snapshots)
    network = model.network
    average = reconstruct(snapshots, sigma_rel, min(model.step, last))
    load_strictly(network, {**network.state_dict(), **average}, f"Snapshots of {model.run_folder}")
    print(f"Power-law average of sigma_rel {sigma_rel} at step {min(model.step, last)}, of {len(snapshots)} snapshots.")


def build_stored(
    run: DictConfig, protocol: EvaluationProtocol, dataset: Dataset, model: Model, folder: Path, sigma_rel: float | None
) -> StoredEvaluator:
    """The run's evaluator, which keeps what it generates in `folder` until the end."""
    plain: Evaluator = build_evaluator(run, protocol, dataset, str(next(model.network.parameters()).device))
    status = os.stat(model.checkpoint)
    identity = {
        "checkpoint": model.checkpoint.name,
        "step": model.step,
        "size": status.st_size,
        "time": status.st_mtime_ns,
        "ema_sigma_rel": sigma_rel,
        "network": OmegaConf.to_container(run.network, resolve=True),
    }
    return stored(plain, folder, identity)
