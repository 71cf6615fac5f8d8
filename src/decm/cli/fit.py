"""One Lightning fit of a configuration in a run folder, continued from its last checkpoint if there is one."""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from omegaconf import DictConfig

from decm.cli.bench import Bench
from decm.cli.build import build_evaluator, build_network, build_trajectories, segment_names
from decm.cli.config import plain
from decm.cli.devices import pick_device
from decm.cli.resume import resume_point, teacher_facts
from decm.cli.runs import LAST
from decm.cli.scores import code_version
from decm.cli.teachers import Source, initialize
from decm.data.datamodule import DataModule
from decm.data.loader import Dataset
from decm.networks.regions import prepare_regions
from decm.training.callbacks.checkpoints import Checkpoints
from decm.training.callbacks.ema import EMA
from decm.training.callbacks.ema_snapshots import FOLDER, EMASnapshots
from decm.training.callbacks.previews import Evaluate, Previews
from decm.training.callbacks.self_check import SelfCheck
from decm.training.callbacks.speed import PlainProgress, Speed
from decm.training.callbacks.tracking import build_loggers, finish
from decm.training.checkpoint_files import CheckpointFiles, stored_step
from decm.training.csv_logger import MetricsCSV
from decm.training.module import DistillationModule, Recipe
from decm.training.sharding import PRECISIONS, ShardedStrategy, Sharding


class ConfigInCheckpoint(Callback):
    """A checkpoint carries what explains it (settings, code, teacher), and the loggers' files are no older than it."""

    def __init__(self, settings: dict[str, Any], teacher: dict[str, str | None]) -> None:
        self.facts = {"decm_config": settings, "code_version": code_version(), "teacher": teacher}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(self.facts)
        for logger in trainer.loggers:
            logger.save()


@dataclass(frozen=True)
class Fitted:
    """What a fit leaves: the module, its loggers (still open), and the seconds of training over all its processes."""

    module: DistillationModule
    loggers: list[Any]
    seconds: float
    is_main: bool


def quiet() -> None:
    """Silence what Lightning says about itself."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)


def build_module(cfg: DictConfig, source: Source) -> DistillationModule:
    """Student (from the teacher's weights where asked), EMA and teacher, with the recipe of a configuration."""
    student = build_network(cfg.network, cfg.seed)
    initialize(student, source, cfg)
    times = instantiate(cfg.times) if cfg.times else None
    recipe = Recipe(
        cfg.seed, cfg.batch_size, instantiate(cfg.optimizer), instantiate(cfg.schedule), cfg.label_drop, times,
        cfg.jvp, cfg.fused,
    )  # fmt: skip
    t = cfg.trainer
    prepare_regions(student, t.compile, t.activation_checkpointing)
    if source.teacher is not None and source.teacher.network is not None and t.compile:
        prepare_regions(source.teacher.network, compiled=True)
    sharding = Sharding(PRECISIONS[t.precision], t.reshard) if t.strategy == "fsdp" else Sharding()
    return DistillationModule(student, source.teacher, recipe, sharding)


def machine(cfg: DictConfig) -> dict[str, Any]:
    """Lightning's settings of the machine; under `fsdp` FSDP2 casts parameters, not autocast."""
    t = cfg.trainer
    sharded = t.strategy == "fsdp"
    on_cpu = t.accelerator == "cpu" or (t.accelerator == "auto" and pick_device("auto") == "cpu")
    several = on_cpu and t.devices == "auto" and t.strategy in ("ddp", "fsdp")
    return {
        "accelerator": t.accelerator, "devices": 2 if several else t.devices, "num_nodes": t.num_nodes,
        "strategy": ShardedStrategy() if sharded else t.strategy, "precision": "32-true" if sharded else t.precision,
        "plugins": [] if sharded else [CheckpointFiles()],
    }  # fmt: skip


def build_callbacks(
    cfg: DictConfig, settings: dict[str, Any], folder: Path, dataset: Dataset, source: Source, bench: Bench | None,
    teacher: dict[str, str | None],
) -> list[Callback]:  # fmt: skip
    """Trajectories, EMA, speed, progress, checkpoints, and with a bench the previews and evaluation in the loop."""
    callbacks: list[Callback] = [
        *build_trajectories(cfg),
        EMA(cfg.ema.kind, cfg.ema.decay, cfg.ema.sigma_rel),
        Speed(cfg.batch_size),
        RichProgressBar() if sys.stdout.isatty() else PlainProgress(cfg.name),
        ConfigInCheckpoint(settings, teacher),
    ]
    if cfg.self_check and cfg.jvp != "finite_difference":
        callbacks.append(SelfCheck())
    if cfg.snapshots.every:
        kept = cfg.snapshots
        callbacks.append(EMASnapshots(folder / FOLDER, kept.every, list(kept.sigma_rels), kept.dtype))
    evaluate = None
    if bench is not None:
        e, names = cfg.evaluation, segment_names(cfg)
        evaluator = build_evaluator(cfg, bench, dataset)
        evaluate = Evaluate(e.every, e.nfe, e.every_num_samples, evaluator, bench.map_errors, names)
        callbacks += [
            Previews(e.preview_every, e.nfe, evaluator, bench.painter, folder / "previews", names, source.flow_map),
            evaluate,
        ]
    return [*callbacks, Checkpoints(folder / LAST.parent, cfg.trainer.checkpoint_every, cfg.trainer.keep, evaluate)]


def fit(
    cfg: DictConfig, folder: Path, dataset: Dataset, source: Source, bench: Bench | None = None,
    group: str | None = None,
) -> Fitted:  # fmt: skip
    """Train until max_steps. The run goes on from the newest whole checkpoint of its folder if there is one."""
    quiet()
    settings, teacher = plain(cfg), teacher_facts(source)
    resumed = resume_point(folder / LAST.parent, teacher)
    if cfg.trainer.threads:
        torch.set_num_threads(cfg.trainer.threads)
    module = build_module(cfg, source)
    loggers = build_loggers(settings, folder, group)
    callbacks = build_callbacks(cfg, settings, folder, dataset, source, bench, teacher)
    t = cfg.trainer
    trainer = Trainer(
        max_steps=cfg.max_steps, max_epochs=-1, **machine(cfg), accumulate_grad_batches=cfg.accumulate,
        gradient_clip_val=t.clip_norm, callbacks=callbacks, logger=loggers, log_every_n_steps=t.log_every,
        enable_progress_bar=sys.stdout.isatty(), enable_model_summary=False, use_distributed_sampler=False,
        num_sanity_val_steps=0, default_root_dir=folder,
    )  # fmt: skip
    if resumed is not None:
        step = stored_step(resumed)
        print(f"Continuing {folder} at step {step} of {cfg.max_steps}", flush=True)
        for logger in loggers:
            if isinstance(logger, MetricsCSV):
                logger.forget_after(step)
    try:
        trainer.fit(
            module, DataModule(dataset, cfg.batch_size, cfg.seed), ckpt_path=resumed, weights_only=True,
        )  # fmt: skip
        module.gather()
    except BaseException:
        finish(loggers)
        raise
    speed = next(callback for callback in callbacks if isinstance(callback, Speed))
    return Fitted(module, loggers, speed.seconds, trainer.is_global_zero)
