"""Continuous-time consistency distillation: the segment t -> 1, one jump to the data."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from decm.flow.path import expand
from decm.flow.velocity import Field
from decm.objectives.base import Aim, Rows, Segment
from decm.objectives.norms import mean_square, root_mean_square

FORMS = ("facm", "tangent_normalized", "squared")


@dataclass(frozen=True)
class Consistency:
    """The jump's value does not change along the flow: g = F- - v - (1 - t) dF = 0, dF along (v, 1, 0).

    form `facm`: e(F - F- + (1 - t^power) clamp(g, -1, 1)), over sqrt(e + 1e-3) (detached), times cos(pi t / 2)
    (FACM's published code, arXiv:2509.03700, on which DE-CM builds); `tangent_normalized`:
    e(F - F- + g / (rms(g) + 0.1)) (sCM's normalization, arXiv:2410.11081 Sec. 4.1); `squared`: e(F - F- + g).
    Raises ValueError for another form.
    """

    form: str = "facm"
    power: float = 0.5

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form={self.form!r} of the consistency loss is unknown; expected {', '.join(FORMS)}.")

    def ask(self, segment: Segment, field: Field) -> Rows:
        return segment.along_the_flow(segment.velocity(field))

    def aim(self, segment: Segment, F: Tensor, dF: Tensor | None, field: Field) -> Aim:
        assert dF is not None
        g = F - segment.velocity(field) - expand(segment.end - segment.start, F) * dF
        if self.form == "facm":
            return Aim(F - expand(1 - segment.start**self.power, F) * g.clamp(-1, 1), g)
        if self.form == "tangent_normalized":
            return Aim(F - g / expand(root_mean_square(g) + 0.1, F), g)
        return Aim(F - g, g)

    def measure(self, segment: Segment, F: Tensor, aim: Aim) -> Tensor:
        loss = mean_square(F - aim.target)
        if self.form == "facm":
            return loss / (loss.detach() + 1e-3).sqrt() * torch.cos(math.pi / 2 * segment.start)
        return loss
