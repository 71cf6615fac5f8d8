"""Batches by index: one global order of samples, cut by rank and micro-batch, with a position that can be saved."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import Tensor

from decm.data.manifest import Manifest

AHEAD = 2  # batches


class Dataset(Protocol):
    """What the loader needs of a data set."""

    manifest: Manifest

    def batch(self, seed: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """Samples number `index` of the run's global order."""
        ...


def micro_batch_size(global_batch: int, world_size: int, accumulate: int) -> int:
    """Rows of one micro-batch on one rank. Raises ValueError unless the global batch divides evenly."""
    parts = world_size * accumulate
    if global_batch < 1 or global_batch % parts:
        raise ValueError(
            f"batch_size={global_batch} (samples an optimizer step, over all devices) does not divide into "
            f"{world_size} devices x {accumulate} micro-batches. Choose a multiple of {parts}."
        )
    return global_batch // parts


class IndexLoader:
    """Yields `prepare({x, y, index})` for the whole run of `steps` optimizer steps, as seen by one rank.

    Optimizer step n holds samples nG ... (n+1)G - 1 of the run, G = `global_batch`; rank r takes the r-th of
    `world_size` equal slices, in `accumulate` micro-batches. The saved position counts samples that were handed out, so
    that a run may resume with another number of ranks. A thread reads and prepares AHEAD batches while a step runs; its
    errors are raised when their batch is due.
    """

    def __init__(
        self,
        dataset: Dataset,
        seed: int,
        global_batch: int,
        steps: int,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        prepare: Callable[[dict[str, Tensor]], Any] = lambda batch: batch,
    ) -> None:
        self.dataset, self.seed, self.global_batch, self.prepare = dataset, seed, global_batch, prepare
        self.micro = micro_batch_size(global_batch, world_size, accumulate)
        self.rank, self.world_size, self.accumulate, self.steps = rank, world_size, accumulate, steps
        self.position = 0  # micro-batches handed out

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def __iter__(self) -> Iterator[Any]:
        thread, coming, asked = ThreadPoolExecutor(1, "batches"), deque[Future[Any]](), self.position
        try:
            while self.position < len(self):
                while asked < len(self) and len(coming) <= AHEAD:
                    coming.append(thread.submit(self._read, asked))
                    asked += 1
                batch = coming.popleft().result()
                self.position += 1
                yield batch
        finally:
            thread.shutdown(cancel_futures=True)

    def _read(self, position: int) -> Any:
        step, part = divmod(position, self.accumulate)
        first = step * self.global_batch + (self.rank * self.accumulate + part) * self.micro
        index = torch.arange(first, first + self.micro)
        x, y = self.fetch(index, position)
        return self.prepare({"x": x, "y": y, "index": index})

    def fetch(self, index: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """Samples number `index` [B] of the run, this rank's micro-batch number `position`; called in their order."""
        return self.dataset.batch(self.seed, index)

    def state_dict(self) -> dict[str, int]:
        """The samples of all ranks that went by, at the last whole optimizer step."""
        return {"samples": self.position // self.accumulate * self.global_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after `state["samples"]`. Raises ValueError if that is no whole number of optimizer steps."""
        if state["samples"] % self.global_batch:
            raise ValueError(
                f"The checkpoint stands at sample {state['samples']}, within an optimizer step of "
                f"batch_size={self.global_batch}. Resume with the batch size of the run."
            )
        self.position = state["samples"] // self.global_batch * self.accumulate
