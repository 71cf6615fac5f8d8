"""What a run needs is built, and what it cannot do is refused, before its folder is made or a teacher trained."""

import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from decm.checkpoints.checksums import digest
from decm.checkpoints.first_process import is_first
from decm.data.loader import Dataset, micro_batch_size
from decm.experiment.build import build_dataset, build_network, build_protocol, build_trajectories, made
from decm.experiment.callbacks import build_callbacks, machine
from decm.experiment.checks import check_num_samples, check_settings
from decm.experiment.dry_run import needs_no_teacher
from decm.experiment.teachers import (
    TeacherBundle,
    check_finished_teacher,
    guided_field,
    initialize_student,
    load_or_train_teacher,
    teacher_config,
)
from decm.experiment.warm_start import check_warm_start
from decm.generator.networks import PARTS, check_targets
from decm.networks.regions import prepare_regions
from decm.protocols.protocol import EvaluationProtocol
from decm.settings.composition import plain
from decm.training.loggers import check_wandb, folder_of_wandb
from decm.training.wandb_mode import mode_of_environment, wandb_mode


@dataclass(frozen=True)
class Prepared:
    """The data set and protocol of a run, and the source of its velocity, or the settings of a teacher=auto."""

    dataset: Dataset
    protocol: EvaluationProtocol
    source: TeacherBundle | None
    teacher: DictConfig | None


def prepare(cfg: DictConfig, folder: Path | None) -> Prepared:
    """Build what comes before the training. Raises ValueError for invalid settings.

    `folder` is the run's, if it has one; nothing is written into it.
    """
    if is_first():
        check_writable(Path(cfg.runs))
    check_logger(cfg)
    check_targets(plain(cfg), "What these settings train could not be read again: it", list(PARTS))
    check_parts(cfg)
    dataset = build_dataset(cfg)
    check_own_network(cfg, dataset)
    teacher = teacher_config(cfg) if cfg.teacher.kind == "auto" else None
    if teacher is not None:
        try:
            check_teacher(teacher, dataset)
        except ValueError as error:
            raise ValueError(f"The teacher (teacher.experiment={cfg.teacher.experiment}): {error}") from error
        if is_first():  # one process reads it all
            check_finished_teacher(teacher)
    if is_first():  # the others cannot tell which folder goes on
        check_warm_start(cfg, folder)
    source = None if teacher is not None else load_or_train_teacher(cfg, dataset, _no_training)
    if cfg.distill:
        student = build_network(cfg.network, cfg.seed)
        prepare_regions(student, cfg.trainer.compile is True, cfg.trainer.activation_checkpointing)
        if source is None:
            guided_field(cfg, student)
        elif cfg.warm_start is None:
            initialize_student(student, source, cfg)
        check_callbacks(cfg, dataset, source or TeacherBundle(None))
    protocol = build_protocol(cfg, dataset)
    check_num_samples(cfg.evaluation, protocol.judge)
    return Prepared(dataset, protocol, source, teacher)


def check_callbacks(cfg: DictConfig, dataset: Dataset, source: TeacherBundle) -> None:
    """Raise ValueError for averages, snapshots, guards and checkpoints that cannot be made; nothing is written."""
    folder = Path(cfg.runs)
    build_callbacks(cfg, plain(cfg), folder=folder, dataset=dataset, source=source, protocol=None, teacher={})


def check_teacher(cfg: DictConfig, dataset: Dataset) -> None:
    """Raise ValueError for a teacher that cannot be trained, for its settings or for those of its own teacher."""
    check_settings(cfg)
    check_parts(cfg)
    check_callbacks(cfg, dataset, TeacherBundle(None))
    if cfg.teacher.kind == "auto":
        check_teacher(teacher_config(cfg), dataset)
    else:
        load_or_train_teacher(cfg, dataset, _no_training)


def check_parts(cfg: DictConfig) -> None:
    """Raise ValueError for an optimizer, schedule, method or machine that is invalid, without building a network."""
    if cfg.times:
        check_made(cfg, "times", lambda times: expect_numbers(times(torch.tensor([0.1, 0.5, 0.9])), "times", 1))
    trainer = trainer_of(cfg)
    at = [0, cfg.max_steps // 2, cfg.max_steps - 1]
    check_made(cfg, "schedule", lambda schedule: expect_numbers(torch.tensor([*map(schedule, at)]), "factors"))
    check_made(cfg, "optimizer", lambda make: one_step(make, trainer.strategy.root_device))
    parts = trainer.num_devices * trainer.num_nodes * cfg.accumulate
    micro_batch_size(cfg.batch_size, parts // cfg.accumulate, cfg.accumulate)
    trajectories = build_trajectories(cfg)
    if cfg.max_steps > 1 and all(trajectory.every > 1 for trajectory in trajectories):
        raise ValueError("No segment was planned for this step: `method` has no entry that acts at every step.")
    for trajectory in trajectories:
        if cfg.trainer.strategy == "fsdp":
            trajectory.check_sharded(cfg.batch_size, parts)
        if cfg.teacher.kind == "none":
            needs_no_teacher(trajectory)


def trainer_of(cfg: DictConfig) -> Trainer:
    """A trainer of this machine that trains nothing. Raises ValueError where Lightning refuses the settings."""
    try:
        return Trainer(
            **machine(cfg),
            max_steps=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=cfg.runs,
        )
    except (TypeError, MisconfigurationException) as error:
        given = ", ".join(
            f"trainer.{key}={cfg.trainer[key]}" for key in ("accelerator", "devices", "num_nodes", "strategy")
        )
        raise ValueError(f"{given}: Lightning refuses this: {' '.join(str(error).split())}") from error


def check_made(cfg: DictConfig, key: str, use: Callable[[Any], Any]) -> None:
    """Raise ValueError where what a setting names cannot be made, or not be used as `use` does."""
    try:
        use(made(cfg[key]))
    except Exception as error:  # whatever it is that somebody's class raises for its arguments
        target = cfg[key].get("_target_") if isinstance(cfg[key], DictConfig) else None
        what = f"{key}._target_={target}" if target else f"{key}={cfg[key]}"
        why = " ".join(str(error).split())
        raise ValueError(f"{what} cannot be used with these settings: {type(error).__name__}: {why}") from error


def expect_numbers(found: torch.Tensor, what: str, most: float = math.inf) -> None:
    """Raise ValueError unless all are from 0 to `most`, and finite."""
    if not bool(((found >= 0) & (found <= most) & found.isfinite()).all()):
        limits = f"from 0 to {most:g}" if math.isfinite(most) else "of 0 or more"
        given = ", ".join(f"{value:.4g}" for value in found.tolist())
        raise ValueError(f"it gives the {what} {given}; expected numbers {limits}.")


def one_step(make: Callable[[Any], torch.optim.Optimizer], device: torch.device) -> None:
    """A step of an optimizer on one parameter; some refuse their settings only there, or cannot be saved after it."""
    parameter = torch.nn.Parameter(torch.ones(1, device=device))

    def loss() -> float:
        parameter.square().sum().backward()
        return 1.0

    optimizer = make([parameter])
    optimizer.step(loss)
    digest(optimizer.state_dict())


def check_own_network(cfg: DictConfig, dataset: Dataset) -> None:
    """Raise ValueError for a network from outside decm that does not map states to states, with and without a class."""
    if str(cfg.network._target_).startswith("decm."):
        return
    what = f"network._target_={cfg.network._target_}"
    try:
        net: Any = build_network(cfg.network, cfg.seed)
        x, y = torch.zeros(2, *dataset.manifest.shape), torch.tensor([0, net.num_classes])
        with torch.no_grad():
            F = net(x, torch.full((2,), 0.5), torch.full((2,), 0.5), y)
    except (AttributeError, TypeError, IndexError, RuntimeError) as error:
        raise ValueError(
            f"{what} cannot be called as net(x, t, s, y) with labels 0 to num_classes, the last for no class: "
            f"{type(error).__name__}: {error}"
        ) from error
    shape = getattr(F, "shape", None)
    if shape != x.shape or not F.isfinite().all():
        found = "values that are not finite" if shape == x.shape else f"a {type(F).__name__}"
        found = f"the shape {list(shape)}" if shape not in (None, x.shape) else found
        raise ValueError(f"{what} gives {found} for states {list(x.shape)}; expected finite values of that shape.")


def check_logger(cfg: DictConfig) -> None:
    """Raise ValueError for a logger of an unknown kind or mode, or one whose package is missing."""
    kind, mode = cfg.logger.kind, cfg.logger.mode or mode_of_environment()
    if kind not in ("wandb", "csv"):
        raise ValueError(f"logger.kind={kind!r} is unknown; expected wandb or csv.")
    if kind == "wandb" and mode:
        wandb_mode(mode)
    if kind == "wandb" and mode != "disabled" and "wandb" not in sys.modules and find_spec("wandb") is None:
        raise ValueError("logger=wandb needs the package wandb, which is not installed. Install it, or set logger=csv.")
    if kind == "wandb" and mode != "disabled":
        place = folder_of_wandb(cfg.logger)
        if place is not None:  # W&B itself would silently take another one
            check_writable(Path(place), "W&B's folder", "Set logger.dir, or the variable WANDB_DIR.")
        check_wandb(plain(cfg))


def check_writable(root: Path, what: str = "A run folder", advice: str = "Set runs=<your folder>.") -> None:
    """Raise ValueError unless folders can be made below `root`, which need not exist yet."""
    there = root
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise ValueError(f"{what} below {root} cannot be written: {error}. {advice}") from error


def _no_training(cfg: DictConfig, folder: Path) -> Any:
    raise AssertionError("only teacher=auto trains one")
