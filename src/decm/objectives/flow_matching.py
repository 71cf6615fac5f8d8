"""Flow matching: the instantaneous segment t -> t, which is also the boundary of every flow map."""

from dataclasses import dataclass

from torch import Tensor

from decm.flow.velocity import Field
from decm.objectives.base import Aim, Rows, Segment
from decm.objectives.norms import cosine, mean_square


@dataclass(frozen=True)
class FlowMatching:
    """L = e(F(x_t, t, t) - v) + cosine (1 - cos(F, v)); DE-CM Eq. 12, with FACM's cosine term (arXiv:2509.03700)."""

    cosine: float = 1.0

    def ask(self, segment: Segment, field: Field) -> Rows:
        return Rows(segment.x, segment.start, segment.start, segment.y)

    def aim(self, segment: Segment, F: Tensor, dF: Tensor | None, field: Field) -> Aim:
        v = segment.velocity(field)
        return Aim(v, F - v)

    def measure(self, segment: Segment, F: Tensor, aim: Aim) -> Tensor:
        loss = mean_square(F - aim.target)
        return loss + self.cosine * (1 - cosine(F, aim.target)) if self.cosine else loss
