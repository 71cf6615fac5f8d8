"""Faults on purpose, for drills and for the tests of what survives them."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from decm.training.callbacks.base import distillation
from decm.training.checkpoint_io import CheckpointFiles

FAULTS = ("kill_at_step", "nan_at_step", "hang_rank", "truncate_checkpoint")
LONGEST = 1000  # steps of a run that is drilled without `force`


class Faults(Callback):
    """Breaks a run: `kill_at_step` ends this process (SIGKILL); `nan_at_step` makes the data of `nan_steps` steps NaN;
    `hang_rank` sleeps for ever at `hang_at_step`; `truncate_checkpoint` cuts the newest checkpoint, of that step or a
    later one, in half.

    `rank` is the one that is killed or fed NaN (-1: the last). With `nan_again` NaN comes after a rollback too.
    Raises ValueError in a run longer than 1,000 steps, unless `force`.
    """

    def __init__(self, folder: Path, seed: int, settings: dict[str, Any]) -> None:
        self.folder, self.seed, self.at = folder, seed, settings
        self._truncated = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.max_steps > LONGEST and not self.at["force"]:
            raise ValueError(
                f"faults are set in a run of {trainer.max_steps} steps; expected at most {LONGEST}, so that no long "
                "run is broken by mistake. Set faults=none, or faults.force=true if you mean it."
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        at, step, rank = self.at, trainer.global_step, trainer.global_rank
        chosen = rank == at["rank"] % trainer.world_size
        if chosen and step == at["kill_at_step"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == at["hang_rank"] and step == at["hang_at_step"]:
            time.sleep(1e9)
        first_data = distillation(pl_module).recipe.seed == self.seed
        bad = at["nan_at_step"] is not None and 0 <= step - at["nan_at_step"] < at["nan_steps"]
        if bad and chosen and (first_data or at["nan_again"]):
            batch.x.fill_(torch.nan)
        if at["truncate_checkpoint"] is not None and trainer.is_global_zero and not self._truncated:
            if isinstance(trainer.strategy.checkpoint_io, CheckpointFiles):
                trainer.strategy.checkpoint_io.wait()
            self._truncate(at["truncate_checkpoint"])

    def _truncate(self, step: int) -> None:
        for path in sorted(self.folder.glob("step_*.ckpt"), reverse=True):
            if int(path.stem.removeprefix("step_")) >= step:
                files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
                os.truncate(files[0], files[0].stat().st_size // 2)
                self._truncated = True
                return
