"""The contract between the training step and an objective: the records that travel, and ask, aim, measure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from decm.flow.derivative import Network, Tangents
from decm.flow.path import interpolate, moved
from decm.flow.velocity import Field


class Rows(NamedTuple):
    """Where the student is needed: F(x, t, s, y), and dF along `tangents` if they are given."""

    x: Tensor  # [b, ...]
    t: Tensor  # [b]
    s: Tensor  # [b]
    y: Tensor  # [b]
    tangents: Tangents | None = None


class Aim(NamedTuple):
    """The target of F, and the tangent g = F- - target before any clamp, weight or norm (what the logs show)."""

    target: Tensor  # [b, ...]
    tangent: Tensor  # [b, ...]


def missing_network(*args: Tensor) -> Tensor:
    """What a segment has in place of a student that it was not given."""
    raise AssertionError("This law looks at the student, which the segment was not given.")


@dataclass
class Segment:
    """The rows of a planned law: states x at times `start`, to be carried to times `end`.

    `cpu_start` and `cpu_end` are the same times on the CPU: a field that decides by them need not wait for the device.
    `progress` is how far the law's own schedule has come, 0 to 1. `student` and `average` are the student as it is and
    its EMA, as F(x, t, s, y) without gradient: for discrete laws, whose target lies in them.
    """

    x: Tensor  # [b, ...]
    start: Tensor  # [b]
    end: Tensor  # [b]
    y: Tensor  # [b]
    progress: float = 1.0
    v: Tensor | None = None  # the field at (x, start) if it is known already
    student: Network = missing_network
    average: Network = missing_network
    cpu_start: Tensor | None = None
    cpu_end: Tensor | None = None

    def velocity(self, field: Field) -> Tensor:
        """v(x, start), evaluated at most once, and only if an objective asks for it."""
        if self.v is None:
            self.v = field(self.x, self.start if self.cpu_start is None else self.cpu_start, self.y)
        return self.v

    def velocity_at_end(self, x: Tensor, field: Field) -> Tensor:
        """v(x, end) at other states [b, ...]."""
        return field(x, self.end if self.cpu_end is None else self.cpu_end, self.y)

    def along_the_flow(self, v: Tensor) -> Rows:
        """Rows for F(x, start, end) with dF along (v, 1, 0): how F changes where (x, start) moves with the flow."""
        one = torch.ones_like(self.start)
        return Rows(self.x, self.start, self.end, self.y, (v, one, torch.zeros_like(one)))


class Objective(Protocol):
    """A law on a segment. It never calls the student with gradient: all planned segments share one call.

    One with parameters of its own is an nn.Module too; one with a schedule sets `scheduled = True` and reads
    `segment.progress`; a discrete one states the `order` in its step size at which target and prediction meet at the
    exact flow, and its `step(progress)`.
    """

    def ask(self, segment: Segment, field: Field) -> Rows:
        """The rows at which the student is needed, with tangents or without."""
        ...

    def aim(self, segment: Segment, F: Tensor, dF: Tensor | None, field: Field) -> Aim:
        """The target, from the student's own value F- and derivative dF (both without gradient)."""
        ...

    def measure(self, segment: Segment, F: Tensor, aim: Aim) -> Tensor:
        """The loss per sample, [b], differentiable in F alone."""
        ...


@dataclass(frozen=True)
class SubTrajectory:
    """One planned segment of the anchor: which law, from where to where, on which rows, with which weight.

    `rows` selects anchor rows (None: all of them); `count` is the number of such rows in the *global* batch of the
    optimizer step, so that the mean does not depend on how the batch is split. `start` and `end` are times [b].
    All of them are on the CPU. `at_anchor` says that the segment starts at the anchor's own time.
    """

    name: str
    objective: Objective
    start: Tensor
    end: Tensor
    count: int
    rows: Tensor | None = None
    weight: float = 1.0
    progress: float = 1.0  # of the law's own schedule
    at_anchor: bool = False


@dataclass
class Batch:
    """The anchor: data x, noise z, times t, labels y, the samples' indices in the run's order, and the plan.

    Times and indices stay on the CPU, where they are drawn and planned with.
    A segment that acts at this step is `due` also where none of its rows is in this part of the global batch.
    """

    x: Tensor  # [B, ...]
    z: Tensor  # [B, ...]
    t: Tensor  # [B], on the CPU
    y: Tensor  # [B]
    index: Tensor  # [B], on the CPU
    plan: list[SubTrajectory] = field(default_factory=list)
    due: list[str] = field(default_factory=list)  # names of this step's segments, on every rank the same

    def __post_init__(self) -> None:
        B = self.x.shape[0]
        assert self.z.shape == self.x.shape, f"noise {tuple(self.z.shape)} for data {tuple(self.x.shape)}"
        assert self.t.shape == self.y.shape == self.index.shape == (B,), "times, labels and indices must be [B]"

    def segment(self, sub: SubTrajectory, v: Tensor, shared_everywhere: bool = False) -> Segment:
        """The rows of a planned segment. `v` [B, ...] is the field at the anchor, shared by the segments that start
        there; with `shared_everywhere` (the conditional velocity x - z) it holds on the whole path.
        """
        device = self.x.device
        pick = slice(None) if sub.rows is None else moved(sub.rows, device)
        start, end = moved(sub.start, device), moved(sub.end, device)
        return Segment(
            x=interpolate(self.x[pick], self.z[pick], start),
            start=start,
            end=end,
            y=self.y[pick],
            progress=sub.progress,
            v=v[pick] if shared_everywhere or sub.at_anchor else None,
            cpu_start=sub.start,
            cpu_end=sub.end,
        )
