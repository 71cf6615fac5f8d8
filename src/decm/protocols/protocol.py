"""What `evaluation.protocol` makes."""

from dataclasses import dataclass

from decm.evaluation.judge import Judge
from decm.evaluation.pictures import Painter
from decm.evaluation.points import MapErrors


@dataclass(frozen=True)
class EvaluationProtocol:
    """Scores, pictures, where the exact flow is known the errors of the maps, and which data the scores are of."""

    judge: Judge
    painter: Painter
    map_errors: MapErrors | None = None
    data: str = ""
