"""Improved MeanFlow: the same identity, read as a loss on the instantaneous velocity."""

from dataclasses import dataclass

from decm.flow.velocity import Field
from decm.objectives.base import Rows, Segment
from decm.objectives.mean_flow import MeanFlow


@dataclass(frozen=True)
class ImprovedMeanFlow(MeanFlow):
    """V = F - (s - t) dF regresses v, with dF along (F(x, t, t), 1, 0): the student's own velocity, not the target's.

    arXiv:2512.02012 Sec. 4.1 (v-loss; data at time 1). F - V is without gradient, so that V - v is MeanFlow's residual
    with another vector in the derivative: without a teacher, x - z has the variance of single pairs, F(x, t, t) has
    not. Costs one more forward of the student.
    """

    def ask(self, segment: Segment, field: Field) -> Rows:
        return segment.along_the_flow(segment.student(segment.x, segment.start, segment.start, segment.y))
