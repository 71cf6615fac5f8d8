"""`evaluation=twod`: mixtures of points, where the exact flow is known."""

from pathlib import Path

import torch
from torch import Tensor

from decm.data.toy import MixturePoints
from decm.evaluation.judge import PointsJudge
from decm.evaluation.pictures import PointsPainter
from decm.evaluation.points import MapErrors
from decm.protocols.protocol import EvaluationProtocol


def exact_points(dataset: MixturePoints, cache: Path, num_map_points: int, map_seed: int) -> EvaluationProtocol:
    """2-D mixtures: sliced Wasserstein distance to exact samples, and the four map errors."""
    if not isinstance(dataset, MixturePoints):
        raise ValueError("evaluation=twod needs a 2-D mixture (data=ring8 or grid9), where the exact flow is known.")
    if num_map_points < 1:
        raise ValueError(f"evaluation.protocol.num_map_points={num_map_points}; expected 1 or more.")

    def draw(purpose: str, num: int) -> Tensor:
        return dataset.points(map_seed, purpose, torch.arange(num))

    judge = PointsJudge(draw, f"as many exact samples of {dataset.manifest.origin}")
    errors = MapErrors(dataset.exact_flow(), (2, 1, 1), num_map_points, map_seed)
    return EvaluationProtocol(judge, PointsPainter(dataset.manifest.extra["limit"]), errors)
