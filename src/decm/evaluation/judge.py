"""Judges: what a set of samples is compared with, by which metric, and how low the metric can go."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from decm.evaluation.frechet import FrechetDistance, fit
from decm.evaluation.generate import Rows, itself, joined
from decm.evaluation.points import sliced_wasserstein
from decm.evaluation.scores import NEIGHBORS, Memorization, Neighborhoods, precision_recall
from decm.evaluation.titles import TITLES
from decm.features.classifier import LOOKED_AT, guess_accuracy
from decm.features.extractor import Extractor
from decm.flow.randomness import generator

RESAMPLES = 10  # a single bootstrap resample of 2,000 digits scores anything from 0.19 to 0.46


class Judge(ABC):
    """Scores samples; `value` is the metric."""

    metric: str
    reference: str
    fewest: int  # samples that every score can be taken of

    @abstractmethod
    def features(self, samples: Tensor) -> Rows:
        """What is compared of samples [N, ...]: N rows by name. Of several ranks each does that for its own samples."""

    @abstractmethod
    def compare(self, features: Rows, labels: Tensor) -> dict[str, float]:
        """`value`, and whatever else is known of all samples by their features and labels [N]."""

    @abstractmethod
    def floor(self, num: int) -> dict[str, float]:
        """`value`: the metric of `num` points resampled from the reference itself; and of held-out data, if any.

        Where the judge is a classifier, also its accuracy on held-out data, and that of the most frequent label.

        Empty where the reference is known by its statistics alone.
        """

    def score(self, samples: Tensor, labels: Tensor) -> dict[str, float]:
        """The scores of samples [N, ...] with labels [N]."""
        return self.compare(self.features(samples), labels)


class NoJudge(Judge):
    """Gives no scores, so that no samples are made for it."""

    metric, reference, fewest = "none", "nothing", 2

    def features(self, samples: Tensor) -> Rows:
        return itself(samples)

    def compare(self, features: Rows, labels: Tensor) -> dict[str, float]:
        return {}

    def floor(self, num: int) -> dict[str, float]:
        return {}


def metric_of(extractor: Extractor) -> str:
    """What the Frechet distance of an extractor's features is called in results."""
    return extractor.metric if extractor.metric in TITLES else "frechet_distance"


class ImageJudge(Judge):
    """Frechet distance, precision, recall and memorization of pictures; the class accuracy, by a classifier's features.

    `to_pixels` turns states into uint8 images; all features are of those. Training images are the reference, at least
    two: their features may be `known` [M, D], of all or of some. `known_heldout` are those of the held-out images, and
    where there are more than their width, the samples' distance to them is a score too, `fd_heldout`. The accuracy is
    by `classifier`, or by the extractor if that is one. A score that needs more images than there are is left out.
    """

    fewest = NEIGHBORS + 1

    def __init__(
        self,
        extractor: Extractor,
        to_pixels: Callable[[Tensor], Tensor],
        train: Tensor,
        heldout: Tensor,
        heldout_labels: Tensor,
        known: Tensor | None = None,
        known_heldout: Tensor | None = None,
        classifier: Extractor | None = None,
    ) -> None:
        if len(train) < 2:
            raise ValueError(f"The training split has {len(train)} image; a Frechet distance needs 2 or more of them.")
        self.extractor, self.to_pixels, self.metric = extractor, to_pixels, metric_of(extractor)
        self.classifier = extractor if extractor.labels_are_classes else classifier
        self.train, self.heldout, self.heldout_labels = to_pixels(train), to_pixels(heldout), heldout_labels
        self.known = self._seen(self.train)["pool"] if known is None else known
        self.known_heldout = known_heldout
        if extractor.labels_are_classes:
            self.reference = f"{len(self.known)} training images, features of a classifier of them"
        else:
            self.reference = f"{len(self.known)} training images, features {extractor.name}"
        self.moments = fit(self.known)

    @cached_property
    def neighborhoods(self) -> Neighborhoods | None:
        """Those of the training images' features; None for too few images."""
        return Neighborhoods(self.known) if len(self.known) > NEIGHBORS else None

    @cached_property
    def memorization(self) -> Memorization | None:
        """What counts as a repeated training image; None without held-out images."""
        return Memorization(self.train, self.heldout) if len(self.heldout) else None

    @cached_property
    def heldout_moments(self) -> tuple[Tensor, Tensor] | None:
        """Those of the held-out features that are known, where there are enough for a covariance."""
        found = self.known_heldout
        return fit(found) if found is not None and len(found) > found.shape[1] else None

    def _seen(self, pixels: Tensor) -> Rows:
        kinds = [self.extractor] + ([self.classifier] if self.classifier not in (None, self.extractor) else [])
        found: Rows = {}
        for extractor in reversed(kinds):  # the features of the first one stand
            found |= joined(extractor(part) for part in pixels.split(LOOKED_AT))
        return {"pixels": pixels, **{name: rows.cpu() for name, rows in found.items()}}

    def features(self, samples: Tensor) -> Rows:
        return self._seen(self.to_pixels(samples))

    def compare(self, features: Rows, labels: Tensor) -> dict[str, float]:
        pool = features["pool"]
        scores = {"value": distance(pool, self.moments)}
        if self.heldout_moments is not None:
            scores["fd_heldout"] = distance(pool, self.heldout_moments)
        if self.classifier is not None:
            scores["accuracy"] = float((features["logits"].argmax(1) == labels).double().mean())
        if self.neighborhoods is not None and len(pool) > NEIGHBORS:
            scores |= zip(("precision", "recall"), precision_recall(pool, self.neighborhoods), strict=True)
        if self.memorization is not None:
            scores["memorized"] = self.memorization.share(features["pixels"])
        return scores

    def floor(self, num: int) -> dict[str, float]:
        size, draws = len(self.known), [generator(0, f"bootstrap/{k}", 0) for k in range(RESAMPLES)]
        resampled = [self.known[torch.from_numpy(draw.integers(0, size, num))] for draw in draws]
        found = {"value": sum(distance(features, self.moments) for features in resampled) / RESAMPLES}
        if len(self.heldout) > 1:
            known = self._seen(self.heldout)["pool"] if self.known_heldout is None else self.known_heldout
            found["heldout"] = distance(known, self.moments)
        if len(self.heldout) and self.classifier is not None:
            seen = self._seen(self.heldout)["logits"].argmax(1)
            found["heldout_accuracy"] = float((seen == self.heldout_labels).double().mean())
            found["guess_accuracy"] = guess_accuracy(self.heldout_labels)
        return found


def distance(features: Tensor, moments: tuple[Tensor, Tensor]) -> float:
    """The Frechet distance of features [N, D] to a (mean, covariance); each rank judges whole sets."""
    metric = FrechetDistance(*moments, distributed=False)
    metric.update(features)
    return float(metric.compute())


class PointsJudge(Judge):
    """Sliced 2-Wasserstein distance of points to as many exact samples; `draw(purpose, num)` gives those."""

    metric = "sliced_wasserstein"
    fewest = 2

    def __init__(self, draw: Callable[[str, int], Tensor], reference: str) -> None:
        self.draw, self.reference = draw, reference

    def features(self, samples: Tensor) -> Rows:
        return itself(samples)

    def compare(self, features: Rows, labels: Tensor) -> dict[str, float]:
        return {"value": sliced_wasserstein(features["samples"], self.draw("reference", len(labels)))}

    def floor(self, num: int) -> dict[str, float]:
        return {"value": sliced_wasserstein(self.draw("floor", num), self.draw("reference", num))}
