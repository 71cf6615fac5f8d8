"""One Lightning fit of a configuration in a run folder, continued from its last checkpoint if there is one."""

import logging
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from decm.cli.bench import Bench
from decm.cli.build import build_evaluator, build_network, build_trajectories, segment_names
from decm.cli.config import plain
from decm.cli.devices import pick_device
from decm.cli.runs import LAST
from decm.cli.teachers import Source, initialize
from decm.data.datamodule import DataModule
from decm.data.loader import Dataset
from decm.networks.regions import prepare_regions
from decm.training.callbacks.ema import EMA
from decm.training.callbacks.ema_snapshots import FOLDER, EMASnapshots
from decm.training.callbacks.faults import FAULTS, Faults
from decm.training.callbacks.guard import Guard, RollBackError, count_rollbacks, gave_up, note_rollback
from decm.training.callbacks.preemption import Preemption
from decm.training.callbacks.previews import Evaluate, Previews
from decm.training.callbacks.self_check import SelfCheck
from decm.training.callbacks.speed import PlainProgress, Speed
from decm.training.callbacks.tracking import build_loggers, finish
from decm.training.callbacks.watchdog import Watchdog
from decm.training.checkpoint_files import stored_step
from decm.training.csv_logger import MetricsCSV
from decm.training.module import DistillationModule, Recipe
from decm.training.sharding import PRECISIONS, ShardedStrategy, Sharding

OTHER_DATA = 2**32  # between the data seeds before and after a rollback


class ConfigInCheckpoint(Callback):
    """A checkpoint carries the plain configuration that explains it, and the loggers' files are no older than it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["decm_config"] = self.settings
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


def build_module(cfg: DictConfig, source: Source, rollbacks: int = 0) -> DistillationModule:
    """Student (from the teacher's weights where asked), EMA and teacher, with the recipe of a configuration.

    After each rollback the data seed is another one.
    """
    student = build_network(cfg.network, cfg.seed)
    initialize(student, source, cfg)
    times = instantiate(cfg.times) if cfg.times else None
    recipe = Recipe(
        cfg.seed + rollbacks * OTHER_DATA, cfg.batch_size, instantiate(cfg.optimizer), instantiate(cfg.schedule),
        cfg.label_drop, times,
        cfg.jvp, cfg.fused,
    )  # fmt: skip
    t = cfg.trainer
    prepare_regions(student, t.compile, t.activation_checkpointing)
    if source.teacher is not None and source.teacher.network is not None and t.compile:
        prepare_regions(source.teacher.network, compiled=True)
    sharding = Sharding(PRECISIONS[t.precision], t.reshard) if t.strategy == "fsdp" else Sharding()
    return DistillationModule(student, source.teacher, recipe, sharding)


def machine(cfg: DictConfig) -> dict[str, Any]:
    """Lightning's accelerator, devices, strategy and precision; under `fsdp` FSDP2 casts parameters, not autocast."""
    t = cfg.trainer
    on_cpu = t.accelerator == "cpu" or (t.accelerator == "auto" and pick_device("auto") == "cpu")
    several = on_cpu and t.devices == "auto" and t.strategy in ("ddp", "fsdp")
    patience = timedelta(seconds=max(600, 2 * cfg.guard.hang_timeout))  # the watchdog speaks first
    strategy: Any = t.strategy
    if strategy == "fsdp":
        strategy = ShardedStrategy(timeout=patience)
    elif strategy == "ddp":
        strategy = DDPStrategy(timeout=patience, broadcast_buffers=False, gradient_as_bucket_view=True)
    return {
        "accelerator": t.accelerator, "devices": 2 if several else t.devices, "num_nodes": t.num_nodes,
        "strategy": strategy, "precision": "32-true" if t.strategy == "fsdp" else t.precision,
        "plugins": [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else [],  # Preemption requeues
    }  # fmt: skip


def build_callbacks(
    cfg: DictConfig, settings: dict[str, Any], folder: Path, dataset: Dataset, source: Source, bench: Bench | None
) -> list[Callback]:
    """Trajectories, EMA, speed, progress, checkpoints, and with a bench the previews and evaluation in the loop."""
    callbacks: list[Callback] = [
        *build_trajectories(cfg),
        EMA(cfg.ema.kind, cfg.ema.decay, cfg.ema.sigma_rel),
        Speed(cfg.batch_size),
        RichProgressBar() if sys.stdout.isatty() else PlainProgress(cfg.name),
        ConfigInCheckpoint(settings),
        Guard(folder, cfg.guard.patience, cfg.guard.spike),
        Preemption(folder),
        Watchdog(folder, cfg.guard.hang_timeout),
    ]
    if any(settings["faults"][key] is not None for key in FAULTS):
        callbacks.append(Faults(folder / LAST.parent, cfg.seed, settings["faults"]))
    if cfg.self_check and cfg.jvp != "finite_difference":
        callbacks.append(SelfCheck())
    if cfg.snapshots.every:
        kept = cfg.snapshots
        callbacks.append(EMASnapshots(folder / FOLDER, kept.every, list(kept.sigma_rels), kept.dtype))
    if bench is not None:
        e, names = cfg.evaluation, segment_names(cfg)
        evaluator = build_evaluator(cfg, bench, dataset)
        callbacks += [
            Previews(e.preview_every, e.nfe, evaluator, bench.painter, folder / "previews", names, source.flow_map),
            Evaluate(e.every, e.nfe, e.every_num_samples, evaluator, bench.map_errors, names),
        ]
    checkpoint = ModelCheckpoint(
        folder / LAST.parent, filename=LAST.stem, every_n_train_steps=cfg.trainer.checkpoint_every,
        enable_version_counter=False,
    )  # fmt: skip
    return [*callbacks, checkpoint]


def fit(
    cfg: DictConfig, folder: Path, dataset: Dataset, source: Source, bench: Bench | None = None,
    group: str | None = None,
) -> Fitted:  # fmt: skip
    """Train until max_steps, from the last checkpoint of the folder if there is one.

    After too many bad steps in a row the run goes back to that checkpoint, with other data; raises NonFiniteLossError
    where it did so `guard.rollbacks` times, and PreemptedError where it was asked to stop.
    """
    quiet()
    settings = plain(cfg)
    if cfg.trainer.threads:
        torch.set_num_threads(cfg.trainer.threads)
    loggers = build_loggers(settings, folder, group)
    rollbacks = count_rollbacks(folder)
    try:
        while True:
            module = build_module(cfg, source, rollbacks)
            callbacks = build_callbacks(cfg, settings, folder, dataset, source, bench)
            try:
                trainer = train(cfg, folder, dataset, module, callbacks, loggers)
                break
            except RollBackError as cause:
                if rollbacks >= cfg.guard.rollbacks:
                    raise gave_up(folder, rollbacks, cause) from cause
                rollbacks += 1
                source = source.with_network(module.gather())
                go_back(folder, cause)
    except BaseException:
        finish(loggers)
        raise
    speed = next(callback for callback in callbacks if isinstance(callback, Speed))
    return Fitted(module, loggers, speed.seconds, trainer.is_global_zero)


@rank_zero_only
def go_back(folder: Path, cause: RollBackError) -> None:
    """Say and note that the run goes back to its last checkpoint."""
    last = folder / LAST if (folder / LAST).exists() else None
    note_rollback(folder, str(cause), last)
    print(f"{cause}: back to {last or 'the start'}, with other data.", flush=True)


def train(
    cfg: DictConfig, folder: Path, dataset: Dataset, module: DistillationModule, callbacks: list[Callback],
    loggers: list[Any],
) -> Trainer:  # fmt: skip
    """One attempt at the whole training; the trainer that did it."""
    t = cfg.trainer
    trainer = Trainer(
        max_steps=cfg.max_steps, max_epochs=-1, **machine(cfg), accumulate_grad_batches=cfg.accumulate,
        gradient_clip_val=t.clip_norm, callbacks=callbacks, logger=loggers, log_every_n_steps=t.log_every,
        enable_progress_bar=sys.stdout.isatty(), enable_model_summary=False, use_distributed_sampler=False,
        num_sanity_val_steps=0, default_root_dir=folder,
    )  # fmt: skip
    last = folder / LAST
    if last.exists():
        step = stored_step(last)
        print(f"Continuing {folder} at step {step} of {cfg.max_steps}", flush=True)
        for logger in loggers:
            if isinstance(logger, MetricsCSV):
                logger.forget_after(step)
    data = DataModule(dataset, cfg.batch_size, module.recipe.seed)
    trainer.fit(module, data, ckpt_path=last if last.exists() else None, weights_only=True)
    trainer.save_checkpoint(last)
    preemption = next(callback for callback in callbacks if isinstance(callback, Preemption))
    if preemption.stopped:
        raise preemption.error(trainer.global_step)
    module.gather()
    return trainer
