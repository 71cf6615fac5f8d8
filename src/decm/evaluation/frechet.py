"""The Frechet distance between Gaussians fitted to features, in float64."""

from functools import reduce

import torch
from torch import Tensor
from torchmetrics import Metric

from decm.flow.randomness import normal

WELL_CONDITIONED = 1e-5  # smallest by largest pivot above which Cholesky's factor is accurate
SKETCH = 8  # a covariance of at most D / 8 ranks, as of few samples, is factored within its range
NOT_A_COVARIANCE = 1e-3  # a negative eigenvalue beyond this share of the norm is no rounding (float32 files: 1e-6)
FLOAT32 = torch.finfo(torch.float32).eps


def rounding_bound(mean: Tensor, cov: Tensor) -> float:
    """How far below zero rounding may take an eigenvalue of a covariance [D, D] of features with this mean [D].

    A covariance is a difference of second moments, E[x x^T] - m m^T, so that its rounding is also relative to |m|^2:
    that of constant features is rounding alone.
    """
    return float(NOT_A_COVARIANCE * cov.norm() + FLOAT32 * mean.square().sum())


def is_covariance(mean: Tensor, cov: Tensor) -> bool:
    """Whether cov [D, D] is symmetric and positive semi-definite, but for rounding."""
    bound = rounding_bound(mean, cov)
    if bound == 0:
        return True  # all zero
    shifted = cov + bound * torch.eye(len(cov), dtype=cov.dtype, device=cov.device)
    return float((cov - cov.T).abs().max()) <= bound and not torch.linalg.cholesky_ex(shifted).info


def factor(cov: Tensor, bound: float | None = None) -> Tensor:
    """F [D, r] with F F^T = cov [D, D] and r its numerical rank; ValueError for an eigenvalue below -bound.

    Without `bound` it is that of features around zero.

    Cholesky's factor where that is safe (it takes a fortieth of the time), else scaled eigenvectors. Eigenvalues below
    the rank cut-off D eps are rounding, and their square roots, 1e-8 each, would add up: they are left out.
    """
    if not cov.isfinite().all():
        raise ValueError(
            "The covariance of the features is not finite; the features or the reference hold NaN or infinity."
        )
    lower, failed = torch.linalg.cholesky_ex(cov)
    pivots = lower.diagonal()
    if not failed and pivots.min() > WELL_CONDITIONED * pivots.max():
        return lower
    basis = low_rank_basis(cov)
    values, vectors = torch.linalg.eigh(cov if basis is None else basis.T @ cov @ basis)
    if values[0] < -(rounding_bound(torch.zeros(1), cov) if bound is None else bound):
        raise ValueError(f"A covariance with the eigenvalue {float(values[0]):.3g}: the statistics are damaged.")
    vectors = vectors if basis is None else basis @ vectors
    kept = values > len(cov) * torch.finfo(cov.dtype).eps * values[-1].clamp(min=0)
    return vectors[:, kept] * values[kept].sqrt()


def low_rank_basis(cov: Tensor) -> Tensor | None:
    """Q [D, D / 8], orthonormal, with Q Q^T cov = cov [D, D] up to rounding, or None where the rank is not that low.

    The range of cov times random columns (arXiv:0909.4061 Alg. 4.1): exact where the rank is below their number.
    """
    D = len(cov)
    if D < 64 * SKETCH:
        return None
    columns = normal(0, "sketch", torch.arange(D), (D // SKETCH,)).to(cov)
    basis = torch.linalg.qr(cov @ columns).Q
    residual = (cov - basis @ (basis.T @ cov)).norm()
    return basis if residual <= D * torch.finfo(cov.dtype).eps * cov.norm() else None


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2)), arXiv:1706.08500 Eq. 6; means [D], covariances [D, D] float64.

    With A = F F^T and B = G G^T the trace term is the sum of the singular values of F^T G: no square root is taken of
    a product, nor of an eigenvalue that is rounding, so that it holds for rank-deficient covariances too.
    """
    if mean_a.shape != mean_b.shape:
        raise ValueError(f"Features of {len(mean_a)} dimensions against a reference of {len(mean_b)}.")
    a, b = factor(cov_a, rounding_bound(mean_a, cov_a)), factor(cov_b, rounding_bound(mean_b, cov_b))
    cross = torch.linalg.svdvals(a.T @ b).sum()
    distance = float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)
    return max(distance, 0.0)  # of equal sets it is rounding, of either sign


Parts = tuple[Tensor, Tensor, Tensor]  # count [], mean [D], and the sum of squares around it [D, D]


def merged(a: Parts, b: Parts) -> Parts:
    """The moments of two sets together."""
    count = a[0] + b[0]
    share, gap = b[0] / count.clamp(min=1), b[1] - a[1]
    return count, a[1] + share * gap, a[2] + b[2] + a[0] * share * torch.outer(gap, gap)


class Moments(Metric):
    """Mean and unbiased covariance of features [N, dim], in float64, over all ranks in `compute()`.

    Each batch is centered by its own mean, and batches are merged by Chan's formula (Chan, Golub and LeVeque 1983,
    Eq. 2.1): the covariance is a sum of squares, so that that of constant features is zero and not rounding.
    `distributed=False` keeps the moments of this rank alone, where one rank has seen every sample.
    """

    full_state_update = False
    count: Tensor
    center: Tensor
    outer: Tensor

    def __init__(self, dim: int, distributed: bool = True) -> None:
        super().__init__(sync_on_compute=distributed)
        self.set_dtype(torch.float64)
        self.dim = dim
        for name, shape in (("count", ()), ("center", (dim,)), ("outer", (dim, dim))):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx=None)  # ranks: stacked

    def update(self, features: Tensor) -> None:
        """Add features [N, D]. Raises ValueError for another width, NaN or infinity."""
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise ValueError(f"Features of shape {tuple(features.shape)}; expected [N, {self.dim}] as the reference.")
        features = features.to(self.center)
        bad = ~features.isfinite().all(1)
        if bad.any():
            raise ValueError(f"{int(bad.sum())} of {len(bad)} samples have features that are NaN or infinite.")
        if len(features):
            center = features.mean(0)
            shifted = features - center
            batch = (self.count.new_tensor(len(features)), center, shifted.T @ shifted)
            self.count, self.center, self.outer = merged((self.count, self.center, self.outer), batch)

    def moments(self) -> tuple[Tensor, Tensor]:
        """(mean [D], unbiased covariance [D, D]) of the features that this rank has seen, or all where gathered."""
        parts = zip(
            self.count.reshape(-1),
            self.center.reshape(-1, self.dim),
            self.outer.reshape(-1, self.dim, self.dim),
            strict=True,
        )
        count, center, outer = reduce(merged, parts)
        if count < 2:
            raise ValueError(f"The Frechet distance needs two samples or more; found {int(count)}.")
        return center, outer / (count - 1)

    def compute(self) -> tuple[Tensor, Tensor]:
        """The moments over all ranks. Raises ValueError below two samples."""
        return self.moments()


class FrechetDistance(Moments):
    """Frechet distance of the features seen to a reference (mean [D], covariance [D, D])."""

    mean: Tensor
    cov: Tensor

    def __init__(self, mean: Tensor, cov: Tensor, distributed: bool = True) -> None:
        super().__init__(len(mean), distributed)
        self.register_buffer("mean", mean.double())
        self.register_buffer("cov", cov.double())

    def compute(self) -> Tensor:  # type: ignore[override]
        """The distance over all ranks. Raises ValueError below two samples."""
        mean, cov = self.moments()
        return torch.tensor(frechet_distance(mean, cov, self.mean, self.cov), dtype=torch.float64)


def fit(features: Tensor) -> tuple[Tensor, Tensor]:
    """(mean [D], unbiased covariance [D, D]) of features [N, D], in float64."""
    features = features.double()
    return features.mean(0), torch.cov(features.T)
