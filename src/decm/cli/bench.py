"""What `evaluation.bench` can be: judge, painter and exact maps for a data set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decm.cli.decode import pixels_of
from decm.data.arrays import ArrayDataset
from decm.data.loader import Dataset
from decm.data.manifest import content_hash, to_pixels
from decm.data.toy import MixturePoints
from decm.evaluation.classifier import cached_classifier
from decm.evaluation.features import build_extractor
from decm.evaluation.judge import ImageJudge, Judge, PointsJudge
from decm.evaluation.pictures import ImagePainter, Painter, PointsPainter
from decm.evaluation.points import MapErrors
from decm.evaluation.statistics import read_reference
from decm.evaluation.suite import KEEP, SuiteJudge


@dataclass(frozen=True)
class Bench:
    """Scores, pictures, and where the exact flow is known the errors of the maps."""

    judge: Judge
    painter: Painter
    map_errors: MapErrors | None = None


def digit_images(dataset: ArrayDataset, cache: Path) -> Bench:
    """8x8 digits: distances in the feature space of a classifier that is trained once and kept in `cache`."""
    if not isinstance(dataset, ArrayDataset) or dataset.manifest.shape != (1, 8, 8):
        raise ValueError(f"evaluation=digits judges 1x8x8 images; data {dataset.manifest.name!r} has another shape.")

    def pixels(x: Tensor) -> Tensor:
        return to_pixels(x, dataset.manifest)

    train, heldout = (dataset.train_x, dataset.train_y), (dataset.heldout_x, dataset.heldout_y)
    net, _ = cached_classifier(
        cache, content_hash(*train, *heldout),
        (pixels(train[0]), train[1]), (pixels(heldout[0]), heldout[1]),
    )  # fmt: skip
    return Bench(ImageJudge(net, pixels, train[0], *heldout), ImagePainter(pixels))


def image_statistics(
    dataset: Dataset, cache: Path, reference: str, features: str = "inception", weights: str | None = None,
    dinov2: dict[str, str | None] | None = None, keep: int = KEEP, autoencoder: dict[str, Any] | None = None,
) -> Bench:  # fmt: skip
    """Images against reference statistics: FID and what goes with it; and FDD where `dinov2` has reference and weights.

    `autoencoder` (kind, weights, settings) decodes latents. Raises ValueError for a missing file, by its setting.
    """
    pixels = pixels_of(dataset.manifest, autoencoder, "evaluation.bench.autoencoder")
    known = read_reference(reference)
    pairs = [(build_extractor(features, weights), known)]
    if dinov2 and dinov2["reference"]:
        extractor = build_extractor("dinov2", dinov2["weights"], "evaluation.bench.dinov2.weights")
        pairs.append((extractor, read_reference(dinov2["reference"])))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Bench(SuiteJudge(pairs, pixels, keep=keep, device=device), ImagePainter(pixels))


def exact_points(dataset: MixturePoints, cache: Path, num_map_points: int, map_seed: int) -> Bench:
    """2-D mixtures: sliced Wasserstein distance to exact samples, and the four map errors."""
    if not isinstance(dataset, MixturePoints):
        raise ValueError("evaluation=twod needs a 2-D mixture (data=ring8 or grid9), where the exact flow is known.")

    def draw(purpose: str, num: int) -> Tensor:
        return dataset.points(map_seed, purpose, torch.arange(num))

    judge = PointsJudge(draw, f"as many exact samples of {dataset.manifest.origin}")
    limit = float(dataset.means.abs().max()) + 5 * dataset.sigma
    errors = MapErrors(dataset.exact_flow(), (2, 1, 1), num_map_points, map_seed)
    return Bench(judge, PointsPainter(limit), errors)
