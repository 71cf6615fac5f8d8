"""Precision, recall and memorization: questions to nearest neighbours."""

import torch
from torch import Tensor

DISTANCES = 2**25  # computed at a time: 256 MiB in float64
NEIGHBORS = 3  # arXiv:1904.06991 Sec. 4
RESOLUTION = 1e-6  # of float32 features, relative to their norm: what is nearer is the same point


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


def precision_recall(samples: Tensor, reference: Tensor, k: int = NEIGHBORS) -> tuple[float, float]:
    """Improved precision and recall (arXiv:1904.06991) of features [N, D] against [M, D] with k neighbours.

    Precision: the share of samples within the k-nearest-neighbour ball of some reference point; recall vice versa.
    Raises ValueError unless both sets have more than k rows.
    """
    samples, reference = samples.double(), reference.double()

    def covered(points: Tensor, support: Tensor) -> float:
        radius = nearest_distance(support, support, k + 1)  # the nearest is the point itself
        inside = [(distances(part, support) <= radius).any(1) for part in in_parts(points, support)]
        return float(torch.cat(inside).double().mean())

    return covered(samples, reference), covered(reference, samples)


def memorized_share(samples: Tensor, train: Tensor, heldout: Tensor, quantile: float = 0.05) -> float:
    """Share of samples nearer to a training image than the nearest `quantile` of held-out images are.

    A generator that draws from the true distribution scores about `quantile`; one that repeats training images, 1.
    """
    samples, train, heldout = samples.flatten(1).double(), train.flatten(1).double(), heldout.flatten(1).double()
    threshold = nearest_distance(heldout, train).quantile(quantile)
    return float((nearest_distance(samples, train) < threshold).double().mean())
