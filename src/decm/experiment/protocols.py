"""What `evaluation.protocol` can be: judge, painter and exact maps of a data set. Of images: protocols_images.py."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from decm.checkpoints.first_process import is_first
from decm.data.arrays import ArrayDataset
from decm.data.manifest import to_pixels
from decm.data.toy import MixturePoints
from decm.evaluation.classifier import cached_classifier, guess_accuracy
from decm.evaluation.judge import ImageJudge, Judge, PointsJudge
from decm.evaluation.pictures import ImagePainter, Painter, PointsPainter
from decm.evaluation.points import MapErrors
from decm.evaluation.titles import is_weak

INSTEAD = (
    "Take evaluation=images with evaluation.protocol.reference=null (the set's own statistics) and "
    "evaluation.protocol.weights=<torch-fidelity's Inception file>"
)


@dataclass(frozen=True)
class EvaluationProtocol:
    """Scores, pictures, where the exact flow is known the errors of the maps, and which data the scores are of."""

    judge: Judge
    painter: Painter
    map_errors: MapErrors | None = None
    data: str = ""


def digit_images(dataset: ArrayDataset, cache: Path) -> EvaluationProtocol:
    """8x8 digits, or other gray 8x8 images of two classes or more: distances in the feature space of a classifier.

    It is trained once, kept in `cache`, and named where it is weak. Raises ValueError for other data.
    """
    if not isinstance(dataset, ArrayDataset) or dataset.manifest.shape != (1, 8, 8):
        raise ValueError(
            f"evaluation=digits judges 1x8x8 images; data {dataset.manifest.name!r} has {dataset.manifest.shape}. "
            f"{INSTEAD}, or evaluation=twod for 2-D mixtures."
        )

    classes = dataset.manifest.num_classes
    if classes < 2:
        raise ValueError(
            f"evaluation=digits trains a classifier, and data {dataset.manifest.name!r} has num_classes={classes}; "
            f"expected 2 or more. {INSTEAD}."
        )

    def pixels(x: Tensor) -> Tensor:
        return to_pixels(x, dataset.manifest)

    train, heldout = (dataset.train_x, dataset.train_y), (dataset.heldout_x, dataset.heldout_y)
    net, score = cached_classifier(cache, classes, (pixels(train[0]), train[1]), (pixels(heldout[0]), heldout[1]))
    if is_weak(score, guess_accuracy(heldout[1])) and is_first():
        print(
            f"The classifier that judges, trained on {len(train[1])} images, is right on {score:.1%} of "
            f"{len(heldout[1])} held-out images: its figures say little. {INSTEAD}, or give more images.",
            flush=True,
        )
    return EvaluationProtocol(ImageJudge(net, pixels, train[0], *heldout), ImagePainter(pixels))


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
