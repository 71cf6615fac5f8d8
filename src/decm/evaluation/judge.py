"""Judges: what a set of samples is compared with, by which metric, and how low the metric can go."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from decm.evaluation.classifier import DigitClassifier, accuracy, guess_accuracy
from decm.evaluation.frechet import FrechetDistance, fit
from decm.evaluation.generate import Rows, itself
from decm.evaluation.points import sliced_wasserstein
from decm.evaluation.scores import NEIGHBORS, Memorization, Neighborhoods, precision_recall
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


class ImageJudge(Judge):
    """Frechet distance, class accuracy, precision, recall and memorization of digit images.

    `to_pixels` turns states into uint8 images; all features are of those. Training images are the reference, at least
    two. A score that needs more images than there are is left out.
    """

    metric = "frechet_distance"
    fewest = NEIGHBORS + 1

    def __init__(
        self,
        net: DigitClassifier,
        to_pixels: Callable[[Tensor], Tensor],
        train: Tensor,
        heldout: Tensor,
        heldout_labels: Tensor,
    ) -> None:
        if len(train) < 2:
            raise ValueError(f"The training split has {len(train)} image; a Frechet distance needs 2 or more of them.")
        self.net, self.to_pixels = net, to_pixels
        self.train, self.heldout, self.heldout_labels = to_pixels(train), to_pixels(heldout), heldout_labels
        self.known = self._seen(self.train)["pool"]
        self.reference = f"{len(train)} training images, features of the digit classifier"
        self.moments = fit(self.known)

    @cached_property
    def neighborhoods(self) -> Neighborhoods | None:
        """Those of the training images' features; None for too few images."""
        return Neighborhoods(self.known) if len(self.known) > NEIGHBORS else None

    @cached_property
    def memorization(self) -> Memorization | None:
        """What counts as a repeated training image; None without held-out images."""
        return Memorization(self.train, self.heldout) if len(self.heldout) else None

    @torch.inference_mode()
    def _seen(self, pixels: Tensor) -> Rows:
        pool, logits = (torch.cat(found) for found in zip(*map(self.net, pixels.split(2048)), strict=True))
        return {"pixels": pixels, "pool": pool, "logits": logits}

    def _distance(self, features: Tensor) -> float:
        metric = FrechetDistance(*self.moments, distributed=False)  # each rank judges whole sets
        metric.update(features)
        return float(metric.compute())

    def features(self, samples: Tensor) -> Rows:
        return self._seen(self.to_pixels(samples))

    def compare(self, features: Rows, labels: Tensor) -> dict[str, float]:
        pool, hits = features["pool"], features["logits"].argmax(1) == labels
        scores = {"value": self._distance(pool), "accuracy": float(hits.double().mean())}
        if self.neighborhoods is not None and len(pool) > NEIGHBORS:
            scores |= zip(("precision", "recall"), precision_recall(pool, self.neighborhoods), strict=True)
        if self.memorization is not None:
            scores["memorized"] = self.memorization.share(features["pixels"])
        return scores

    def floor(self, num: int) -> dict[str, float]:
        size, draws = len(self.known), [generator(0, f"bootstrap/{k}", 0) for k in range(RESAMPLES)]
        resampled = [self.known[torch.from_numpy(draw.integers(0, size, num))] for draw in draws]
        found = {"value": sum(self._distance(features) for features in resampled) / RESAMPLES}
        if len(self.heldout) > 1:
            found["heldout"] = self._distance(self._seen(self.heldout)["pool"])
        if len(self.heldout):
            found["heldout_accuracy"] = accuracy(self.net, self.heldout, self.heldout_labels)
            found["guess_accuracy"] = guess_accuracy(self.heldout_labels)
        return found


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
