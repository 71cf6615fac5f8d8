"""The Lightning data module: a data set, its global batch and its loader. It must not override batch-transfer hooks."""

from lightning.pytorch import LightningDataModule

from decm.data.loader import Dataset, IndexLoader


class DataModule(LightningDataModule):
    """Serves `dataset` in global batches of `batch_size` samples an optimizer step."""

    def __init__(self, dataset: Dataset, batch_size: int, seed: int) -> None:
        super().__init__()
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed

    def train_dataloader(self) -> IndexLoader:
        assert self.trainer is not None
        return IndexLoader(
            self.dataset, self.seed, self.batch_size, self.trainer.max_steps, self.trainer.global_rank,
            self.trainer.world_size, self.trainer.accumulate_grad_batches,
        )  # fmt: skip
