"""Discrete consistency: the jump to the data from two neighboring points, whose distance shrinks over the run."""

from dataclasses import dataclass

import torch
from torch import Tensor

from decm.flow.path import expand
from decm.flow.velocity import Field
from decm.objectives.base import Aim, Rows, Segment
from decm.objectives.norms import mean_square


@dataclass(frozen=True)
class DiscreteConsistency:
    """f(x_t, t, 1) = f(x_u, u, 1) with x_u = x_t + (u - t) v: F's target is a v + (1 - a) F-(x_u, u, 1).

    a = (u - t) / (1 - t) = min(1, n(t) / q^m), n(t) = 1 + k sigmoid(-b (1 - t) / t): Easy Consistency Tuning
    (arXiv:2406.14548 Sec. 3.2; q = 2, k = 8, b = 1, its noise level sigma = (1 - t) / t). The stage m goes from 1 to
    `stages` with the progress; where a = 1 the law is flow matching. L = (sqrt(e + (a c)^2) - a c) / a, with e the mean
    square of F - target: its weight 1 / (t - r), and c = 0 as on its CIFAR-10 (here the limit of small c).
    At the exact flow target and prediction differ by order a^2.
    """

    q: float = 2.0
    stages: int = 8
    k: float = 8.0
    b: float = 1.0
    c: float = 1e-3

    scheduled = True
    order = 2

    def __post_init__(self) -> None:
        if self.q <= 1 or self.stages < 1 or self.k < 0 or self.c <= 0:
            raise ValueError(
                f"q={self.q}, stages={self.stages}, k={self.k}, c={self.c}; expected q > 1, stages >= 1, k >= 0, c > 0."
            )

    def step(self, t: Tensor, progress: float) -> Tensor:
        """a, the step as a share of the time to the data, [b]."""
        m = min(self.stages, 1 + int(progress * self.stages))
        n = 1 + self.k * torch.sigmoid(-self.b * (1 - t) / t.clamp(min=1e-6))
        return (n / self.q**m).clamp(max=1)

    def ask(self, segment: Segment, field: Field) -> Rows:
        return Rows(segment.x, segment.start, segment.end, segment.y)

    def aim(self, segment: Segment, F: Tensor, dF: Tensor | None, field: Field) -> Aim:
        t, v = segment.start, segment.velocity(field)
        a = self.step(t, segment.progress)
        ahead = t + a * (segment.end - t)
        later = segment.student(segment.x + expand(ahead - t, v) * v, ahead, segment.end, segment.y)
        target = expand(a, v) * v + expand(1 - a, v) * later
        return Aim(target, F - target)

    def measure(self, segment: Segment, F: Tensor, aim: Aim) -> Tensor:
        a = self.step(segment.start, segment.progress)
        return ((mean_square(F - aim.target) + (a * self.c) ** 2).sqrt() - a * self.c) / a
