"""Throughput, and progress lines where there is no terminal for a bar."""

import time

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from decm.evaluation.progress import Job
from decm.training.callbacks.base import DistillationCallback
from decm.training.module import DistillationModule


class Speed(DistillationCallback):
    """Logs `speed/samples_per_s` over the steps between two log lines, all devices together.

    `seconds` counts the time spent in training, over all the processes of a resumed run, up to its checkpoints.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.seconds = 0.0
        self._began = time.perf_counter()
        self._mark: tuple[int, float] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = time.perf_counter()

    def _clock(self) -> float:
        now = time.perf_counter()
        self.seconds, self._began = self.seconds + now - self._began, now
        return self.seconds

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clock()

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self._clock()}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.seconds = state_dict["seconds"]

    def on_optimizer_step(self, trainer: Trainer, module: DistillationModule) -> None:
        step, now = trainer.global_step, time.perf_counter()
        if self._mark is None:
            self._mark = (step, now)
        elif step - self._mark[0] >= trainer.log_every_n_steps:  # type: ignore[attr-defined]
            rate = (step - self._mark[0]) * self.batch_size / (now - self._mark[1])
            self._mark = (step, now)
            module.log("speed/samples_per_s", rate, batch_size=1)


class PlainProgress(DistillationCallback):
    """Tells `job` how far its `stage` is, with the step and the losses."""

    def __init__(self, job: Job, stage: str) -> None:
        self.job, self.stage = job, stage

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.job.at(self.stage, trainer.global_step / trainer.max_steps)

    @rank_zero_only
    def on_optimizer_step(self, trainer: Trainer, module: DistillationModule) -> None:
        def note() -> str:
            record = module.step
            losses = [name for name in record.sums if name.startswith("loss/")]
            said = "  ".join(f"{name.removeprefix('loss/')} {record.mean(name):.4f}" for name in losses)
            return f"step {trainer.global_step}/{trainer.max_steps}  {said}"

        self.job.at(self.stage, trainer.global_step / trainer.max_steps, note)
