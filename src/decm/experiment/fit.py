"""One Lightning fit of a configuration in a run folder, continued from its last checkpoint if there is one."""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from decm.checkpoints.files import stored_step
from decm.checkpoints.first_process import is_first
from decm.checkpoints.folder import newest
from decm.checkpoints.names import CHECKPOINTS
from decm.data.datamodule import DataModule
from decm.data.loader import Dataset
from decm.data.manifest import Manifest
from decm.evaluation.progress import Job
from decm.experiment.build import build_network, build_optimizer, made
from decm.experiment.callbacks import build_callbacks, build_progress, machine
from decm.experiment.compilation import is_compiled
from decm.experiment.resume import resume_point, teacher_facts
from decm.experiment.teachers import TeacherBundle, initialize_student
from decm.experiment.warm_start import warm_start
from decm.networks.regions import prepare_regions
from decm.protocols.protocol import EvaluationProtocol
from decm.settings.composition import plain
from decm.training.callbacks.evaluation.expected import Expected
from decm.training.callbacks.evaluation.speed import Speed
from decm.training.callbacks.reliability.guard import RollbackError, count_rollbacks, gave_up, save_rollback
from decm.training.callbacks.reliability.preemption import Preemption
from decm.training.csv_logger import MetricsCSV
from decm.training.loggers import build_loggers, finish
from decm.training.module import DistillationModule, Recipe
from decm.training.sharding import PRECISIONS, Sharding

SEED_STRIDE = 2**32  # between the data seeds before and after a rollback


@dataclass(frozen=True)
class Fitted:
    """What a fit leaves: the module, its loggers (still open), and the seconds of training over all its processes."""

    module: DistillationModule
    loggers: list[Any]
    seconds: float
    is_main: bool
    device: str  # that this process trained on
    expected: dict[str, Any]  # how it came out against the expected curves, where it was held against them


def quiet() -> None:
    """Silence what Lightning says about itself."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)


def build_module(
    cfg: DictConfig, data: Manifest, source: TeacherBundle, rollbacks: int = 0, fresh: bool = True
) -> DistillationModule:
    """Student (from another's or the teacher's weights where asked), EMA and teacher, with the recipe of a config.

    After each rollback the data seed is another one. Where the run is not `fresh`, a checkpoint has the weights.
    """
    student = build_network(cfg.network, cfg.seed)
    if cfg.warm_start is None:
        initialize_student(student, source, cfg)
    elif fresh:
        warm_start(student, cfg, data)
    recipe = Recipe(
        seed=cfg.seed + rollbacks * SEED_STRIDE,
        batch_size=cfg.batch_size,
        optimizer=build_optimizer(cfg),
        schedule=made(cfg.schedule),
        label_drop=cfg.label_drop,
        times=made(cfg.times) if cfg.times else None,
        jvp=cfg.jvp,
        fused=cfg.fused,
    )
    t = cfg.trainer
    compiled = is_compiled(cfg, student)
    prepare_regions(student, compiled, t.activation_checkpointing)
    if source.teacher is not None and source.teacher.network is not None and compiled:
        prepare_regions(source.teacher.network, compiled=True)
    sharding = Sharding(PRECISIONS[t.precision], t.reshard) if t.strategy == "fsdp" else Sharding()
    module = DistillationModule(student, source.teacher, recipe, sharding)
    prepare_regions(module.ema)  # sampled as `decm evaluate` samples it, so that the figures are the same
    return module


def fit(
    cfg: DictConfig,
    folder: Path,
    dataset: Dataset,
    source: TeacherBundle,
    job: Job,
    stage: str,
    protocol: EvaluationProtocol | None = None,
    group: str | None = None,
) -> Fitted:
    """Train until max_steps, from the newest valid checkpoint of the folder, as a `stage` of the whole `job`.

    After too many bad steps in a row the run goes back to the last checkpoint, with a new data seed. Raises
    NonFiniteLossError after `guard.rollbacks` rollbacks, and PreemptedError if it was asked to stop.
    """
    settings, teacher = plain(cfg), teacher_facts(source)
    if cfg.trainer.threads:
        torch.set_num_threads(cfg.trainer.threads)
    loggers = build_loggers(settings, folder, group)
    rollbacks = count_rollbacks(folder)
    try:
        while True:
            resumed = resume_point(folder / CHECKPOINTS, teacher)
            module = build_module(cfg, dataset.manifest, source, rollbacks, fresh=resumed is None)
            callbacks = build_callbacks(
                cfg, settings, folder=folder, dataset=dataset, source=source, protocol=protocol, teacher=teacher
            )
            callbacks.insert(0, build_progress(job, stage))
            try:
                trainer = train(
                    cfg, folder, dataset=dataset, module=module, callbacks=callbacks, loggers=loggers, resumed=resumed
                )
                break
            except RollbackError as cause:
                if rollbacks >= cfg.guard.rollbacks:
                    raise gave_up(folder, rollbacks, cause) from cause
                rollbacks += 1
                source = source.with_network(module.gather())
                go_back(folder, cause)
    except BaseException:
        finish(loggers)
        raise
    speed = next(callback for callback in callbacks if isinstance(callback, Speed))
    expected = next((callback.report() for callback in callbacks if isinstance(callback, Expected)), {})
    device = str(trainer.strategy.root_device)
    return Fitted(module, loggers, speed.seconds, trainer.is_global_zero, device, expected)


@rank_zero_only
def go_back(folder: Path, cause: RollbackError) -> None:
    """Say and note that the run goes back to its last checkpoint."""
    last = newest(folder / CHECKPOINTS)
    save_rollback(folder, str(cause), last)
    print(f"{cause}: back to {last or 'the start'}, with other data.", flush=True)


def train(
    cfg: DictConfig,
    folder: Path,
    dataset: Dataset,
    module: DistillationModule,
    callbacks: list[Callback],
    loggers: list[Any],
    resumed: Path | None,
) -> Trainer:
    """One attempt at the training, from the checkpoint `resumed` on. Returns the trainer."""
    t = cfg.trainer
    trainer = Trainer(
        max_steps=cfg.max_steps,
        max_epochs=-1,
        **machine(cfg),
        accumulate_grad_batches=cfg.accumulate,
        gradient_clip_val=t.clip_norm,
        callbacks=callbacks,
        logger=loggers,
        log_every_n_steps=t.log_every,
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    if resumed is not None:
        step = stored_step(resumed)
        if is_first():
            print(f"Continuing {folder} at step {step} of {cfg.max_steps}", flush=True)
        for logger in loggers:
            if isinstance(logger, MetricsCSV):
                logger.forget_after(step)
    data = DataModule(dataset, cfg.batch_size, module.recipe.seed)
    if trainer.num_nodes > 1 and is_first():
        print(f"Waiting for the processes of {trainer.num_nodes} nodes.", flush=True)
    trainer.fit(module, data, ckpt_path=resumed, weights_only=True)
    preemption = next(callback for callback in callbacks if isinstance(callback, Preemption))
    if preemption.stopped:
        raise preemption.error(trainer.global_step)
    module.gather()
    return trainer
