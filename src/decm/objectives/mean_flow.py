"""MeanFlow: the average velocity over any segment t -> s."""

from dataclasses import dataclass

from torch import Tensor

from decm.flow.path import expand
from decm.flow.velocity import Field
from decm.objectives.base import Aim, Rows, Segment
from decm.objectives.norms import mean_square


@dataclass(frozen=True)
class MeanFlow:
    """F = v + (s - t) dF with dF along (v, 1, 0); loss e / (e + c)^power, denominator detached.

    arXiv:2505.13447 Eq. 6 and 22 (with data at time 1); c = 1e-3 and power = 1 as in its Sec. 4.3.
    """

    power: float = 1.0
    c: float = 1e-3

    def ask(self, segment: Segment, field: Field) -> Rows:
        return segment.along_the_flow(segment.velocity(field))

    def aim(self, segment: Segment, F: Tensor, dF: Tensor | None, field: Field) -> Aim:
        assert dF is not None
        target = segment.velocity(field) + expand(segment.end - segment.start, F) * dF
        return Aim(target, F - target)

    def measure(self, segment: Segment, F: Tensor, aim: Aim) -> Tensor:
        loss = mean_square(F - aim.target)
        return loss / (loss.detach() + self.c) ** self.power
