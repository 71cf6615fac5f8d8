"""The base of our callbacks: the module by its type, and one call an optimizer step."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from decm.training.module import DistillationModule


def distillation(module: LightningModule) -> DistillationModule:
    """The module by its type. Raises TypeError where a callback of ours is used with another module."""
    if not isinstance(module, DistillationModule):
        raise TypeError(f"This callback works on a DistillationModule; found {type(module).__name__}.")
    return module


class DistillationCallback(Callback):
    """Acts after each optimizer step, however many micro-batches the step has."""

    def on_optimizer_step(self, trainer: Trainer, module: DistillationModule) -> None:
        """Called once after each optimizer step; `module.step` is its record."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module = distillation(pl_module)
        if trainer.global_step > module.step.number:  # not a micro-batch within the step
            self.on_optimizer_step(trainer, module)
