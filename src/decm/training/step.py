"""The record of one optimizer step, which the module fills and its callbacks read."""

from dataclasses import dataclass, field

from torch import Tensor

from decm.objectives.base import Batch


@dataclass(frozen=True)
class MicroBatch:
    """One micro-batch of this rank, and its losses and tangents before they are averaged over ranks."""

    batch: Batch
    figures: dict[str, Tensor]


@dataclass
class OptimizerStep:
    """One optimizer step: optimizer step `number`, from 0, which consists of one or more micro-batches.

    Losses and tangents are averaged over all ranks, so that every rank has the same and decides alike.
    """

    number: int
    micro_batches: int = 0  # that are in the record
    sums: dict[str, float] = field(default_factory=dict)  # by the name in the log, and "total"
    bad_losses: dict[str, float] = field(default_factory=dict)  # by segment, of a micro-batch that is not finite
    skipped: bool = False  # the optimizer and the averages leave this step out
    stop_agreed: bool = False  # some rank asks to stop
    stop_held: bool = False  # Lightning was asked to stop within the step
    example: MicroBatch | None = None  # the last micro-batch, or the first that is not finite

    def add(self, figures: dict[str, float], micro_batch: MicroBatch) -> None:
        """Add a micro-batch whose figures over all ranks are these."""
        self.micro_batches += 1
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in figures.items()}
        if not self.bad_losses:
            self.example = micro_batch

    def mean(self, name: str) -> float:
        """A figure's mean over the micro-batches so far."""
        return self.sums[name] / self.micro_batches
