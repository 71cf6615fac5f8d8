"""Noise-to-noisy distillation (N2N): the segment r -> t, from (nearly) pure noise to any time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from decm.flow.path import expand
from decm.flow.velocity import Field
from decm.objectives.base import Aim, Rows, Segment
from decm.objectives.norms import mean_square


@dataclass(frozen=True)
class NoiseToNoisy:
    """end (df/dt - v(f, t)) - start df/dr = 0: how f moves with its end, and ignores its start along the flow.

    g = (end + start) F- - (start v(x_r, r) + end v(f-, t)) - (t - r) dF,  f- = x_r + (t - r) F-,
    dF along (start v(x_r, r), start, -end) in (x, r, t); L = e(F - F- + clamp(g)); DE-CM Eq. 15.
    The paper's equation is printed with lambda and gamma in places that contradict its derivative vector; the presets
    are named after both readings: `paper` (end 1, start 0.5), `paper_eq15` (end 0.5, start 1), and `end_only` (1, 0).
    `exchanged` takes the two weights for each other in the vector, so that end 0.5, start 1 is the print as it stands
    (`as_printed`): g is then (end - start) (v(x_r, r) - v(f, t)) at the exact flow, which is not 0.
    `clamp` bounds g elementwise, None does not. The field is not evaluated where its weight is 0.
    """

    end: float = 1.0
    start: float = 0.0
    clamp: float | None = 1.0
    exchanged: bool = False

    def __post_init__(self) -> None:
        if self.end < 0 or self.start < 0 or self.end + self.start == 0:
            raise ValueError(f"N2N weights are end={self.end}, start={self.start}; expected >= 0 and not both 0.")

    def ask(self, segment: Segment, field: Field) -> Rows:
        r, t = segment.start, segment.end
        end, start = (self.start, self.end) if self.exchanged else (self.end, self.start)
        dx = start * segment.velocity(field) if start else torch.zeros_like(segment.x)
        tangents = (dx, torch.full_like(r, start), torch.full_like(t, -end))
        return Rows(segment.x, r, t, segment.y, tangents)

    def aim(self, segment: Segment, F: Tensor, dF: Tensor | None, field: Field) -> Aim:
        assert dF is not None
        span = expand(segment.end - segment.start, F)
        g = (self.end + self.start) * F - span * dF
        if self.start:
            g = g - self.start * segment.velocity(field)
        if self.end:
            g = g - self.end * segment.velocity_at_end(segment.x + span * F, field)
        return Aim(F - (g if self.clamp is None else g.clamp(-self.clamp, self.clamp)), g)

    def measure(self, segment: Segment, F: Tensor, aim: Aim) -> Tensor:
        return mean_square(F - aim.target)
