"""Scores beside the Frechet distance: KID, Inception Score, precision, recall and memorization."""

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from decm.flow.randomness import generator

SEED = 2020  # torch-fidelity's, so that the same features give its very numbers
DISTANCES = 2**25  # computed at a time: 256 MiB in float64
NEIGHBORS = 3  # arXiv:1904.06991 Sec. 4
RESOLUTION = 1e-6  # of float32 features, relative to their norm: what is nearer is the same point


def kernel_distance(
    samples: Tensor, reference: Tensor, subsets: int = 100, size: int = 1000, seed: int = SEED
) -> tuple[float, float]:
    """KID (arXiv:1801.01401): mean and deviation over random subsets of the unbiased squared MMD of features [N, D].

    The kernel is (a . b / D + 1)^3. Where a set has fewer than `size` rows the subsets are the smaller set's size.
    """
    size = min(size, len(samples), len(reference))
    if size < 2:
        raise ValueError(f"KID needs two samples or more; found {len(samples)} and {len(reference)}.")
    draw = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        a = samples[torch.from_numpy(draw.choice(len(samples), size, replace=False))].double()
        b = reference[torch.from_numpy(draw.choice(len(reference), size, replace=False))].double()
        within = sum((_kernel(x, x).sum() - (x.square().sum(1) / x.shape[1] + 1).pow(3).sum()) for x in (a, b))
        values.append(float(within / (size * (size - 1)) - 2 * _kernel(a, b).mean()))
    return float(np.mean(values)), float(np.std(values))


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1).pow(3)


class InceptionScore(Metric):
    """exp(mean KL(p(y|x) || p(y))) over `splits` consecutive parts of `num` samples (arXiv:1606.03498): sums alone.

    `update(logits [N, C], index [N])`: sample i belongs to the part that i is in, whatever rank it comes from.
    """

    full_state_update = False
    count: Tensor
    probability: Tensor
    information: Tensor
    ends: Tensor

    def __init__(self, classes: int, num: int, splits: int = 10, distributed: bool = True) -> None:
        super().__init__(sync_on_compute=distributed)
        self.set_dtype(torch.float64)
        splits = min(splits, num)
        self.num = num
        self.register_buffer("ends", torch.tensor([k * num // splits for k in range(1, splits)], dtype=torch.int64))
        self.add_state("count", torch.zeros(splits, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("probability", torch.zeros(splits, classes, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("information", torch.zeros(splits, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, index: Tensor) -> None:
        log_p = logits.to(self.count).log_softmax(1)
        part = torch.bucketize(index.to(self.count.device), self.ends, right=True)
        self.count.index_add_(0, part, torch.ones_like(part, dtype=torch.float64))
        self.probability.index_add_(0, part, log_p.exp())
        self.information.index_add_(0, part, (log_p.exp() * log_p).sum(1))

    def compute(self) -> Tensor:
        """The score of each part, [splits]; NaN for a part without samples."""
        mean = self.probability / self.count[:, None]
        return (self.information / self.count - torch.special.xlogy(mean, mean).sum(1)).exp()


class FeatureSubset(Metric):
    """At most `limit` rows [N, D] of those seen: a random part, the same for any order, batches or number of ranks.

    Sample i has a random key of its own; the rows with the smallest keys stay, in the order of i.
    """

    full_state_update = False
    rows: list[Tensor]
    index: list[Tensor]

    def __init__(self, dim: int, limit: int, distributed: bool = True) -> None:
        super().__init__(sync_on_compute=distributed)
        self.dim, self.limit = dim, limit
        self.add_state("rows", [], dist_reduce_fx="cat")
        self.add_state("index", [], dist_reduce_fx="cat")

    def update(self, rows: Tensor, index: Tensor) -> None:
        self.rows.append(rows.to(self.device))
        self.index.append(index.to(self.device))
        if sum(map(len, self.index)) > 2 * self.limit:  # so that memory stays bounded
            self.rows, self.index = ([part] for part in self._smallest())

    def _smallest(self) -> tuple[Tensor, Tensor]:
        rows = torch.cat(self.rows) if isinstance(self.rows, list) else self.rows  # a tensor after a reduction
        index = torch.cat(self.index) if isinstance(self.index, list) else self.index
        order = index.argsort()
        if len(order) > self.limit:
            keys = torch.tensor([generator(SEED, "kept", int(i)).random() for i in index], dtype=torch.float64)
            order = keys.argsort()[: self.limit]
            order = order[index.cpu()[order].argsort()].to(index.device)
        return rows[order], index[order]

    def compute(self) -> Tensor:
        """[N, D], N <= limit."""
        return self._smallest()[0] if len(self.rows) else torch.zeros(0, self.dim)


def in_parts(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """a [N, D] in parts whose distances to b [M, D] fit in memory."""
    return a.split(max(1, DISTANCES // max(1, len(b))))


def distances(a: Tensor, b: Tensor) -> Tensor:
    """Distances [N, M] of the rows of a [N, D] to those of b [M, D]; exactly 0 where they differ by rounding alone.

    Repeated samples have balls of radius 0, which is then compared with a distance of 0, not rounding with rounding.
    """
    found = torch.cdist(a, b)
    scale = a.square().sum(1)[:, None] + b.square().sum(1)
    return found.masked_fill_(found.square() <= RESOLUTION**2 * scale, 0)


def nearest_distance(a: Tensor, b: Tensor, k: int = 1) -> Tensor:
    """Distance [N] of each row of a [N, D] to its k-th nearest row of b [M, D]. Raises ValueError if M < k."""
    if len(b) < k:
        raise ValueError(f"The {k}-th nearest of {len(b)} points does not exist; more samples are needed.")
    return torch.cat([distances(part, b).kthvalue(k, dim=1).values for part in in_parts(a, b)])


class Neighborhoods:
    """The balls around points [M, D] that reach to the k-th nearest other point; made once for many sets of samples.

    Raises ValueError unless there are more than k points.
    """

    def __init__(self, points: Tensor, k: int = NEIGHBORS) -> None:
        self.points, self.k = points.double(), k
        self.radius = nearest_distance(self.points, self.points, k + 1)  # the nearest is the point itself

    def share(self, others: Tensor) -> float:
        """The share of `others` [N, D] that lie within some ball."""
        parts = in_parts(others.double(), self.points)
        inside = [(distances(part, self.points) <= self.radius).any(1) for part in parts]
        return float(torch.cat(inside).double().mean())


def precision_recall(samples: Tensor, reference: Neighborhoods) -> tuple[float, float]:
    """Improved precision and recall (arXiv:1904.06991) of features [N, D].

    Precision: the share of samples within the neighborhood of some reference point; recall: the share of reference
    points within that of some sample. Raises ValueError unless there are more samples than neighbours (k).
    """
    return reference.share(samples), Neighborhoods(samples, reference.k).share(reference.points)


class Memorization:
    """Whether samples repeat training images: nearer to one than the nearest `quantile` of held-out images are."""

    def __init__(self, train: Tensor, heldout: Tensor, quantile: float = 0.05) -> None:
        self.train = train.flatten(1).double()
        self.threshold = nearest_distance(heldout.flatten(1).double(), self.train).quantile(quantile)

    def share(self, samples: Tensor) -> float:
        """The share of samples that are so near.

        A generator that draws from the true distribution has about `quantile`; one that repeats training images, 1.
        """
        return float((nearest_distance(samples.flatten(1).double(), self.train) < self.threshold).double().mean())
