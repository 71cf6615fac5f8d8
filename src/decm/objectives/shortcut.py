"""Shortcut models: one step of the flow map equals two steps of half its length."""

from dataclasses import dataclass

from torch import Tensor

from decm.flow.path import expand
from decm.flow.velocity import Field
from decm.objectives.base import Aim, Rows, Segment
from decm.objectives.norms import mean_square


@dataclass(frozen=True)
class Shortcut:
    """F(x, t, s) = (F-(x, t, m) + F-(x_m, m, s)) / 2 with m = (t + s) / 2 and x_m = x + (m - t) F-(x, t, m).

    arXiv:2410.12557 Eq. 4 and 5: self-consistency, beside flow matching at t -> t, which anchors it. The two halves
    are the average's (the EMA's, as in its code) or, with `averaged` false, the student's own; both cost a forward.
    """

    averaged: bool = True

    def ask(self, segment: Segment, field: Field) -> Rows:
        return Rows(segment.x, segment.start, segment.end, segment.y)

    def aim(self, segment: Segment, F: Tensor, dF: Tensor | None, field: Field) -> Aim:
        net = segment.average if self.averaged else segment.student
        middle = (segment.start + segment.end) / 2
        first = net(segment.x, segment.start, middle, segment.y)
        x = segment.x + expand(middle - segment.start, first) * first
        target = (first + net(x, middle, segment.end, segment.y)) / 2
        return Aim(target, F - target)

    def measure(self, segment: Segment, F: Tensor, aim: Aim) -> Tensor:
        return mean_square(F - aim.target)
