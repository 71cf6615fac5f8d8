"""Checkpoints of a run: every k steps, at its end and where it is asked to stop; the newest and the best are kept."""

from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from decm.checkpoints.durable import saving
from decm.checkpoints.first_process import is_first
from decm.checkpoints.folder import name_of, prune, reset_to_step
from decm.training.callbacks.base import DistillationCallback
from decm.training.callbacks.evaluation.previews import Evaluate
from decm.training.checkpoint_io import CheckpointFiles
from decm.training.module import DistillationModule


class Checkpoints(DistillationCallback, Checkpoint):
    """Writes `folder/step_<n>.ckpt` every `every` optimizer steps, keeps the `keep` newest and the best by `evaluate`.

    Saves too where `trainer.should_stop` is set, at the last step, and where the evaluation in the loop finds the best
    value so far; one file is written beside the training (CheckpointFiles), at its end the run waits for it. Lightning
    calls it after all other callbacks, so that what it saves is the state after the step. All ranks take part, the
    first one keeps order in the folder. `measured` says how the evaluation measures: a run that goes on with another
    one spares the best checkpoint by the one before, since the figures do not compare, and looks for a best anew.
    Raises ValueError for bad settings.
    """

    def __init__(
        self, folder: Path, every: int, keep: int = 2, evaluate: Evaluate | None = None, measured: str | None = None
    ) -> None:
        if every < 1 or keep < 1:
            raise ValueError(f"checkpoints: every={every}, keep={keep}; expected both 1 or more.")
        self.folder, self.every, self.keep, self.evaluate = folder, every, keep, evaluate
        self.measured, self.spared = measured, list[int]()  # steps
        self.best: dict[str, Any] | None = None  # {step, value}, on the first rank

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self.folder.is_dir():
            with saving(self.folder / name_of(trainer.global_step), 0):
                reset_to_step(self.folder, trainer.global_step)

    def on_optimizer_step(self, trainer: Trainer, module: DistillationModule) -> None:
        step = trainer.global_step
        is_best, is_last = self._is_best(trainer), trainer.should_stop or step == trainer.max_steps
        if is_best or is_last or (step % self.every == 0 and not module.step.skipped):  # a run would go back to it
            then = partial(prune, self.folder, self.keep, self.best["step"] if self.best else None, tuple(self.spared))
            trainer.save_checkpoint(self.folder / name_of(step), storage_options=then)
        writer = trainer.strategy.checkpoint_io
        if isinstance(writer, CheckpointFiles):
            writer.wait() if is_last else writer.check()

    def _is_best(self, trainer: Trainer) -> bool:
        """Whether this step was evaluated, and better than all before: the same on all ranks."""
        if self.evaluate is None or self.evaluate.acted_at != trainer.global_step:
            return False
        value, found = self.evaluate.value, False
        if trainer.is_global_zero and value is not None and value < (self.best["value"] if self.best else float("inf")):
            self.best, found = {"step": trainer.global_step, "value": value}, True
        return trainer.strategy.broadcast(found)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "measured": self.measured, "spared": self.spared}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.spared = state_dict["best"], list(state_dict.get("spared", ()))
        if self.best is not None and state_dict.get("measured", self.measured) != self.measured:
            if is_first():
                print(
                    f"The best checkpoint so far, of step {self.best['step']}, was found by another evaluation: it is "
                    "kept, and the best is looked for anew.",
                    flush=True,
                )
            self.spared.append(self.best["step"])
            self.best = None
