"""All image scores from one pass over the samples, and the judge that gives them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch import distributed as dist
from torchmetrics import MeanMetric

from decm.evaluation.frechet import FrechetDistance
from decm.evaluation.generate import Rows, in_batches, joined
from decm.evaluation.judge import Judge, metric_of
from decm.evaluation.scores import NEIGHBORS, FeatureSubset, InceptionScore, kernel_distance, precision_recall
from decm.evaluation.statistics import KEYS, Reference, weights_of
from decm.features.extractor import Extractor
from decm.flow.randomness import generator

KEEP = 50_000  # 50,000 rows of 2,048 float32: 400 MB
NAMES = ("fid", "fdd", "fd", "sfid", "is", "kid", "precision", "recall", "accuracy")


def host_of_sums(device: torch.device | str) -> torch.device:
    """Where float64 sums can live: on the device, or on the CPU beside one without float64 (MPS)."""
    return torch.device("cpu") if torch.device(device).type == "mps" else torch.device(device)


class MetricSuite:
    """Scores of `num` samples against a reference: fid (fdd, fd), sfid, is, kid, precision, recall, accuracy.

    sfid needs the reference's spatial moments; kid, precision and recall its features or images, and `keep` > 0, the
    number of pool features kept. With `distributed`, each rank updates with its own samples, all ranks call
    `compute()`, and get the same. Raises ValueError if the reference was made with other features.
    """

    def __init__(
        self,
        extractor: Extractor,
        reference: Reference,
        num: int,
        keep: int = KEEP,
        distributed: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        reference.check_fits(extractor)
        self.extractor, self.reference, self.num, self.keep = extractor.to(device), reference, num, keep
        self.distributed, self.seen, home = distributed, 0, host_of_sums(device)
        self.distances = {
            name: FrechetDistance(*moments, distributed=distributed).to(home)
            for name, moments in reference.moments.items()
            if name in KEYS and name in extractor.dims
        }
        self.kept = FeatureSubset(extractor.dims["pool"], keep, distributed).to(home)
        classes = extractor.dims.get("logits")
        self.inception_score = InceptionScore(classes, num, distributed=distributed).to(home) if classes else None
        self.hits = MeanMetric(sync_on_compute=distributed).set_dtype(torch.float64).to(home)

    def update(self, images: Tensor, labels: Tensor, index: Tensor | None = None) -> None:
        """Add uint8 images [N, C, H, W] with labels [N], samples number `index` [N] of the whole set.

        `index` may be left out where one process sees all samples in order. Raises ValueError beyond `num`.
        """
        if index is None:
            if self.distributed and dist.is_initialized() and dist.get_world_size() > 1:
                raise ValueError("With several ranks the samples need their numbers: update(images, labels, index).")
            index = torch.arange(self.seen, self.seen + len(images))
        if len(index) != len(images) or (len(index) and not 0 <= int(index.min()) <= int(index.max()) < self.num):
            raise ValueError(
                f"{len(images)} images, numbered {index.tolist()[:8]}...; expected numbers 0 to {self.num - 1}."
            )
        self.add(self.extractor(images), labels, index)

    def add(self, found: Rows, labels: Tensor, index: Tensor) -> None:
        """Add the features of samples number `index` [N], with labels [N]."""
        self.seen += len(index)
        for name, distance in self.distances.items():
            distance.update(found[name].to(distance.device))
        if self.keep:
            self.kept.update(found["pool"].to(self.kept.device), index)
        if self.inception_score is not None:
            self.inception_score.update(found["logits"].to(self.inception_score.device), index)
            if self.extractor.labels_are_classes:
                self.hits.update((found["logits"].argmax(1).cpu() == labels.cpu()).double())

    def compute(self) -> dict[str, float]:
        """The scores; the first is the Frechet distance. Raises ValueError below two samples."""
        if not self.seen:  # a rank without samples takes part in the reductions all the same
            nothing = {name: torch.zeros(0, dim) for name, dim in self.extractor.dims.items()}
            self.add(nothing, torch.zeros(0), torch.zeros(0, dtype=torch.int64))
        scores = {self.extractor.metric: float(self.distances["pool"].compute())}
        if "spatial" in self.distances:
            scores["sfid"] = float(self.distances["spatial"].compute())
        if self.inception_score is not None:
            scores["is"] = float(self.inception_score.compute().mean())
            if self.extractor.labels_are_classes:
                scores["accuracy"] = float(self.hits.compute())
        return scores | (self._neighborhoods() if self.keep else {})

    def _neighborhoods(self) -> dict[str, float]:
        """KID, precision and recall, if the reference's features are known."""
        rows = self.kept.compute()
        known = self.reference.neighborhoods(self.extractor, rows.device)
        if known is None or len(rows) <= NEIGHBORS:
            return {}
        precision, recall = precision_recall(rows, known)
        return {"kid": kernel_distance(rows, known.points)[0], "precision": precision, "recall": recall}


def _described(extractor: Extractor) -> str:
    """An extractor's name, the hash of its weights and its note."""
    weights = weights_of(extractor)
    notes = [note for note in (f"weights {weights[:8]}" if weights else "", extractor.note) if note]
    return f"{extractor.name} ({'; '.join(notes)})" if notes else extractor.name


class SuiteJudge(Judge):
    """Judges states by `MetricSuite`s (the first one's Frechet distance is `value`); `to_pixels` makes uint8 images.

    Each pair of extractor and reference makes a suite; `batch_size` images are decoded and looked at together. Scores
    of the second and later ones carry their extractor's name, except for fdd. One rank compares whole sets of samples.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Extractor, Reference]],
        to_pixels: Callable[[Tensor], Tensor],
        batch_size: int = 64,
        keep: int = KEEP,
        device: torch.device | str = "cpu",
    ) -> None:
        for extractor, reference in pairs:
            reference.check_fits(extractor)
        self.metric, self.fewest = metric_of(pairs[0][0]), NEIGHBORS + 1 if keep else 2
        self.pairs, self.to_pixels, self.batch_size, self.keep, self.device = pairs, to_pixels, batch_size, keep, device
        self.reference = "; ".join(f"{of.describe()}, features {_described(extractor)}" for extractor, of in pairs)

    def features(self, samples: Tensor) -> Rows:
        return joined(self._seen(self.to_pixels(part)) for part in samples.split(self.batch_size))

    def _seen(self, pixels: Tensor) -> Rows:
        """{extractor's number/kind of features: rows}, of the kinds that its suite needs."""
        rows: Rows = {}
        for number, (extractor, reference) in enumerate(self.pairs):
            found = extractor.to(self.device)(pixels)
            needed = {"pool", "logits", *reference.moments} & found.keys()
            rows |= {f"{number}/{kind}": found[kind].cpu() for kind in sorted(needed)}
        return rows

    def compare(self, features: Rows, labels: Tensor) -> dict[str, float]:
        suites = [
            MetricSuite(extractor, reference, len(labels), self.keep, distributed=False, device=self.device)
            for extractor, reference in self.pairs
        ]
        for number, suite in enumerate(suites):
            mine = {name.split("/")[1]: rows for name, rows in features.items() if name.startswith(f"{number}/")}
            for index in in_batches(len(labels), self.batch_size):
                suite.add({kind: rows[index] for kind, rows in mine.items()}, labels[index], index)
        first, *others = (suite.compute() for suite in suites)
        scores = {"value": next(iter(first.values())), **first}
        for suite, more in zip(suites[1:], others, strict=True):
            name = suite.extractor.name
            scores |= {key if key == suite.extractor.metric else f"{key}_{name}": score for key, score in more.items()}
        return scores

    def floor(self, num: int) -> dict[str, float]:
        """`value`: the metric of `num` images resampled from the reference, where the features of all are known."""
        _, reference = self.pairs[0]
        if not reference.complete or reference.features is None:
            return {}
        rows = torch.from_numpy(generator(0, "bootstrap", num).integers(0, len(reference.features), num))
        metric = FrechetDistance(*reference.moments["pool"], distributed=False)
        metric.update(reference.features[rows])
        return {"value": float(metric.compute())}
