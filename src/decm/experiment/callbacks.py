"""The callbacks of a run, and where it is done, from a configuration."""

import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig

from decm.checkpoints.checksums import digest
from decm.checkpoints.code_version import code_version
from decm.checkpoints.first_process import in_slurm_step
from decm.checkpoints.names import CHECKPOINTS
from decm.data.loader import Dataset
from decm.data.manifest import Manifest
from decm.evaluation.devices import pick_device
from decm.evaluation.progress import Job
from decm.experiment.build import build_evaluator, build_trajectories, segment_names
from decm.experiment.expected import build_expected
from decm.experiment.teachers import TeacherBundle
from decm.protocols.protocol import EvaluationProtocol
from decm.runs.contents import by_content
from decm.training.callbacks.evaluation.previews import Evaluate, Previews
from decm.training.callbacks.evaluation.speed import PlainProgress, Speed
from decm.training.callbacks.method.ema import EMA
from decm.training.callbacks.method.ema_snapshots import FOLDER, EMASnapshots
from decm.training.callbacks.reliability.checkpoints import Checkpoints
from decm.training.callbacks.reliability.faults import FAULTS, Faults
from decm.training.callbacks.reliability.guard import Guard
from decm.training.callbacks.reliability.preemption import Preemption
from decm.training.callbacks.reliability.self_check import SelfCheck
from decm.training.callbacks.reliability.watchdog import Watchdog
from decm.training.checkpoint_io import CheckpointFiles
from decm.training.sharding import ShardedStrategy


class ConfigInCheckpoint(Callback):
    """A checkpoint carries what explains it (settings, code, teacher, the data's manifest).

    The loggers' files are no older than it.
    """

    def __init__(self, settings: dict[str, Any], teacher: dict[str, str | None], manifest: Manifest) -> None:
        self.metadata = {
            "decm_config": settings,
            "code_version": code_version(),
            "teacher": teacher,
            "manifest": manifest.metadata(),
        }

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(self.metadata)
        for logger in trainer.loggers:
            logger.save()


def machine(cfg: DictConfig) -> dict[str, Any]:
    """Lightning's settings of the machine; under `fsdp` FSDP2 casts parameters, not autocast."""
    t = cfg.trainer
    on_cpu = t.accelerator == "cpu" or (t.accelerator == "auto" and pick_device("auto") == "cpu")
    several = on_cpu and t.devices == "auto" and t.strategy in ("ddp", "fsdp")
    patience = timedelta(seconds=max(600, 2 * cfg.guard.hang_timeout))  # the watchdog speaks first
    strategy: Any = t.strategy
    if strategy == "fsdp":
        strategy = ShardedStrategy(timeout=patience)
    elif strategy == "ddp":
        strategy = DDPStrategy(timeout=patience, broadcast_buffers=False, gradient_as_bucket_view=True)
    plugins: list[Any] = [] if t.strategy == "fsdp" else [CheckpointFiles()]
    if in_slurm_step() and SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # Preemption puts the job back in line
    elif "SLURM_NTASKS" in os.environ:
        plugins.append(LightningEnvironment())  # in an allocation, without srun: as on any machine
    return {
        "accelerator": t.accelerator,
        "devices": 2 if several else t.devices,
        "num_nodes": t.num_nodes,
        "strategy": strategy,
        "precision": "32-true" if t.strategy == "fsdp" else t.precision,
        "plugins": plugins,
    }


def build_progress(job: Job, stage: str) -> Callback:
    """A bar on a terminal, and lines about the whole job elsewhere."""
    return RichProgressBar() if sys.stdout.isatty() else PlainProgress(job, stage)


def build_callbacks(
    cfg: DictConfig,
    settings: dict[str, Any],
    folder: Path,
    dataset: Dataset,
    source: TeacherBundle,
    protocol: EvaluationProtocol | None,
    teacher: dict[str, str | None],
) -> list[Callback]:
    """Trajectories, EMA, guards and checkpoints; with a protocol the previews and evaluation in the loop."""
    callbacks: list[Callback] = [
        *build_trajectories(cfg),
        EMA(cfg.ema.kind, cfg.ema.decay, cfg.ema.sigma_rel),
        Speed(cfg.batch_size),
        ConfigInCheckpoint(settings, teacher, dataset.manifest),
        Guard(folder, cfg.guard.patience, cfg.guard.spike),
        Preemption(folder),
    ]
    if any(settings["faults"][key] is not None for key in FAULTS):
        callbacks.append(Faults(folder / CHECKPOINTS, cfg.seed, settings["faults"]))
    if cfg.self_check and cfg.jvp != "finite_difference":
        callbacks.append(SelfCheck())
    if cfg.snapshots.every:
        kept = cfg.snapshots
        callbacks.append(EMASnapshots(folder / FOLDER, kept.every, list(kept.sigma_rels), kept.dtype))
    evaluate, watchdog = None, Watchdog(folder, cfg.guard.hang_timeout)
    if protocol is not None:
        e, names = cfg.evaluation, segment_names(cfg)
        evaluator = replace(build_evaluator(cfg, protocol, dataset), alive=watchdog.alive)
        in_loop = e.every_nfe or e.nfe
        evaluate = Evaluate(e.every, in_loop, e.every_num_samples, evaluator, protocol.map_errors, names)
        callbacks += [
            Previews(
                e.preview_every,
                e.nfe,
                evaluator=evaluator,
                painter=protocol.painter,
                folder=folder / "previews",
                trained_on=names,
                teacher=source.flow_map,
            ),
            evaluate,
            *build_expected(cfg, settings, evaluate),
        ]
    every, keep = cfg.trainer.checkpoint_every, cfg.trainer.keep
    return [*callbacks, watchdog, Checkpoints(folder / CHECKPOINTS, every, keep, evaluate, measured_by(settings))]


def measured_by(settings: dict[str, Any]) -> str:
    """What the figures of the evaluation in the loop depend on besides the model."""
    e = by_content(settings)["evaluation"]
    parts = {key: e[key] for key in ("protocol", "seed", "samplers", "every_num_samples")}
    return digest({**parts, "nfe": min(e["every_nfe"] or e["nfe"])})
