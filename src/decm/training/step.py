"""The record of one optimizer step, which the module fills and its callbacks read."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from decm.objectives.base import Batch


@dataclass(frozen=True)
class MicroBatch:
    """One micro-batch of this rank: its losses and tangents by name, before they are averaged over ranks."""

    batch: Batch
    figures: dict[str, Tensor]


@dataclass
class OptimizerStep:
    """One optimizer step: optimizer step `number`, from 0, which consists of one or more micro-batches.

    The figures of its micro-batches stay on the device until `read`, which is the only time that the host waits for
    it. From then on losses and tangents are averaged over all ranks, so that every rank has the same and decides alike.
    """

    number: int
    names: tuple[str, ...] = ()  # of the columns of `rows`, as in the log, "total" the last of them
    rows: list[Tensor] = field(default_factory=list)  # by micro-batch: [names, cost, whether this rank asks to stop]
    parts: list[MicroBatch] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)  # over the micro-batches, by name
    cost: float = 0.0  # forward-equivalents of a rank, on average
    bad_losses: dict[str, float] = field(default_factory=dict)  # by name, of the first micro-batch that is not finite
    skipped: bool = False  # the optimizer and the averages leave this step out
    stop_agreed: bool = False  # some rank asks to stop
    stop_held: bool = False  # Lightning was asked to stop within the step
    example: MicroBatch | None = None  # the last micro-batch, or the first that is not finite

    @property
    def micro_batches(self) -> int:
        """How many micro-batches are in the record."""
        return len(self.rows)

    def add(self, part: MicroBatch, names: tuple[str, ...], row: Tensor) -> None:
        """Add a micro-batch, whose figures are not read yet."""
        self.names = names
        self.rows.append(row)
        self.parts.append(part)

    def read(self, mean_over_ranks: Callable[[Tensor], Tensor], *more: Tensor) -> list[float]:
        """Read the figures of all micro-batches, with one reduction; and the numbers `more`, which are returned."""
        table = mean_over_ranks(torch.stack(self.rows))
        flat = torch.cat([table.flatten(), *(number.reshape(1).to(table) for number in more)]).tolist()
        width = table.shape[1]
        rows = [flat[k : k + width] for k in range(0, width * len(self.rows), width)]
        *sums, self.cost, stop = (math.fsum(column) for column in zip(*rows, strict=True))
        self.sums, self.stop_agreed = dict(zip(self.names, sums, strict=True)), stop > 0
        total = self.names.index("total")
        bad = next((k for k, row in enumerate(rows) if not math.isfinite(row[total])), None)
        if bad is not None:
            named = dict(zip(self.names, rows[bad], strict=False))
            losses = {name.removeprefix("loss/"): value for name, value in named.items() if name.startswith("loss/")}
            self.bad_losses = losses
        self.example = self.parts[-1 if bad is None else bad]
        self.parts = []
        return flat[width * len(rows) :]

    def mean(self, name: str) -> float:
        """A figure's mean over the micro-batches, once they are read."""
        return self.sums[name] / self.micro_batches
