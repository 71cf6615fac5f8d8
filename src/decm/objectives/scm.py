"""sCM: continuous-time consistency with tangent warm-up, tangent normalization and learned weights over time."""

import math

import torch
from torch import Tensor, nn

from decm.flow.path import expand
from decm.flow.velocity import Field
from decm.objectives.base import Aim, Rows, Segment
from decm.objectives.norms import mean_square, root_mean_square

FREQUENCIES = 16


class TimeWeight(nn.Module):
    """w(t) = a linear map of cos and sin features of t, zero at the start (EDM2's uncertainty, arXiv:2312.02696)."""

    def __init__(self) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(torch.zeros(2 * FREQUENCIES + 1))

    def forward(self, t: Tensor) -> Tensor:
        """w(t), [b]."""
        angle = math.pi * t[:, None] * torch.arange(1, FREQUENCIES + 1, device=t.device)
        features = torch.cat([torch.ones_like(t[:, None]), angle.cos(), angle.sin()], 1)
        return features @ self.coefficients.to(features.dtype)


class SCM(nn.Module):
    """g = F- - v - progress (1 - t) dF, normalized to g / (rms(g) + c); L = exp(w(t)) e(F - F- + g) - w(t).

    arXiv:2410.11081 Sec. 4, with this platform's straight path in place of the trigonometric one: the derivative is
    warmed up by `progress` (its Sec. 4.1; at 0 the law is flow matching), c = 0.1, and w is learned with the student
    where `adaptive`. Zero at the exact map once the progress is 1.
    """

    scheduled = True

    def __init__(self, c: float = 0.1, adaptive: bool = True) -> None:
        super().__init__()
        self.c = c
        self.weight = TimeWeight() if adaptive else None

    def ask(self, segment: Segment, field: Field) -> Rows:
        return segment.along_the_flow(segment.velocity(field))

    def aim(self, segment: Segment, F: Tensor, dF: Tensor | None, field: Field) -> Aim:
        assert dF is not None
        span = segment.progress * (segment.end - segment.start)
        g = F - segment.velocity(field) - expand(span, F) * dF
        return Aim(F - g / expand(root_mean_square(g) + self.c, F), g)

    def measure(self, segment: Segment, F: Tensor, aim: Aim) -> Tensor:
        loss = mean_square(F - aim.target)
        if self.weight is None:
            return loss
        w = self.weight(segment.start)
        return w.exp() * loss - w
