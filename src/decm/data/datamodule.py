"""The Lightning data module: a data set, its global batch and its loader. It must not override batch-transfer hooks."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from decm.data.loader import Dataset, IndexLoader
from decm.data.stream import StreamedLatents, StreamLoader


class DataModule(LightningDataModule):
    """Serves `dataset` in global batches of `batch_size` samples an optimizer step, as the module draws their anchors.

    Where damaged records were left out (data.on_corrupt=skip), it logs at the end how many, as `data/skipped`.
    """

    def __init__(self, dataset: Dataset | StreamedLatents, batch_size: int, seed: int) -> None:
        super().__init__()
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed

    def train_dataloader(self) -> IndexLoader:
        assert self.trainer is not None
        part: dict[str, Any] = {
            "seed": self.seed,
            "global_batch": self.batch_size,
            "steps": self.trainer.max_steps,
            "rank": self.trainer.global_rank,
            "world_size": self.trainer.world_size,
            "accumulate": self.trainer.accumulate_grad_batches,
            "prepare": self.trainer.lightning_module.draw,
        }
        if isinstance(self.dataset, StreamedLatents):
            return StreamLoader(self.dataset, **part)
        return IndexLoader(self.dataset, **part)

    def teardown(self, stage: str) -> None:
        """At the end of a run that was not broken off, on all ranks."""
        trainer = self.trainer
        assert trainer is not None
        here = torch.tensor(float(getattr(self.dataset, "skipped", 0)), device=trainer.strategy.root_device)
        skipped = int(trainer.strategy.reduce(here, reduce_op="sum"))
        if skipped and trainer.is_global_zero:
            print(f"{skipped} damaged records were met and left out (data.on_corrupt=skip).", flush=True)
            for logger in trainer.loggers:
                logger.log_metrics({"data/skipped": float(skipped)}, step=trainer.global_step)
