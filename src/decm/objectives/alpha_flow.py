"""AlphaFlow: a curriculum from flow matching over whole segments, by ever smaller steps, to MeanFlow."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from decm.flow.path import expand
from decm.flow.velocity import Field
from decm.objectives.base import Aim, Rows, Segment
from decm.objectives.mean_flow import MeanFlow
from decm.objectives.norms import mean_square


@dataclass(frozen=True)
class AlphaFlow(MeanFlow):
    """F's target is a v + (1 - a) F-(x_u, u, s) with u = t + a (s - t) and x_u = x_t + (u - t) v.

    arXiv:2510.20771 Sec. 4: a = 1 is flow matching on the segment, a = 1/2 a shortcut, a -> 0 MeanFlow. Over the ramp
    a = sigmoid(-sharpness (progress - 1/2)), which is 1 above 1 - eta and 0 (MeanFlow's continuous law) below eta.
    L = e / a, over (e / a^2 + c)^power (detached); MeanFlow's at a = 0. At the exact flow target and prediction differ
    by order a^2.
    """

    sharpness: float = 25.0
    eta: float = 5e-3

    scheduled = True
    order = 2

    def __post_init__(self) -> None:
        if self.sharpness <= 0 or not 0 < self.eta < 0.5:
            raise ValueError(f"sharpness={self.sharpness}, eta={self.eta}; expected sharpness > 0 and 0 < eta < 0.5.")

    def alpha(self, progress: float) -> float:
        """a, the share of the segment that v steps over."""
        a = 1 / (1 + math.exp(self.sharpness * (progress - 0.5)))
        return 0.0 if a < self.eta else 1.0 if a > 1 - self.eta else a

    def step(self, t: Tensor, progress: float) -> Tensor:
        """a at times t [b]: the same at all of them."""
        return torch.full_like(t, self.alpha(progress))

    def ask(self, segment: Segment, field: Field) -> Rows:
        if self.alpha(segment.progress) == 0:
            return super().ask(segment, field)
        return Rows(segment.x, segment.start, segment.end, segment.y)

    def aim(self, segment: Segment, F: Tensor, dF: Tensor | None, field: Field) -> Aim:
        a = self.alpha(segment.progress)
        if a == 0:
            return super().aim(segment, F, dF, field)
        v, middle = segment.velocity(field), segment.start + a * (segment.end - segment.start)
        x = segment.x + expand(middle - segment.start, v) * v
        later = segment.student(x, middle, segment.end, segment.y) if a < 1 else v
        target = a * v + (1 - a) * later
        return Aim(target, F - target)

    def measure(self, segment: Segment, F: Tensor, aim: Aim) -> Tensor:
        a = self.alpha(segment.progress)
        if a == 0:
            return super().measure(segment, F, aim)
        loss = mean_square(F - aim.target) / a
        return loss / (loss.detach() / a + self.c) ** self.power
