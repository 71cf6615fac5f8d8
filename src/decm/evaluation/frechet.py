"""The Frechet distance between Gaussians fitted to features, in float64."""

import torch
from torch import Tensor
from torchmetrics import Metric

from decm.flow.randomness import normal

WELL_CONDITIONED = 1e-5  # smallest by largest pivot above which Cholesky's factor is accurate
SKETCH = 8  # a covariance of at most D / 8 ranks, as of few samples, is factored within its range
NOT_A_COVARIANCE = 1e-3  # a negative eigenvalue beyond this share of the largest is no rounding (float32 files: 1e-6)


def factor(cov: Tensor) -> Tensor:
    """F [D, r] with F F^T = cov [D, D] and r its numerical rank; ValueError unless cov is positive semi-definite.

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
    if values[0] < -NOT_A_COVARIANCE * values.abs().max():
        raise ValueError(f"A covariance with the eigenvalue {float(values[0]):.3g}: the statistics are damaged.")
    vectors = vectors if basis is None else basis @ vectors
    kept = values > len(cov) * torch.finfo(cov.dtype).eps * values[-1]
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
    cross = torch.linalg.svdvals(factor(cov_a).T @ factor(cov_b)).sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


class Moments(Metric):
    """Mean and unbiased covariance of features; float64 sums around `origin` [D], reduced over ranks in `compute()`.

    `distributed=False` keeps the sums of this rank alone, where one rank has seen every sample.
    """

    full_state_update = False
    mean: Tensor
    cov: Tensor
    count: Tensor
    total: Tensor
    outer: Tensor
    origin: Tensor

    def __init__(self, origin: Tensor, distributed: bool = True) -> None:
        super().__init__(sync_on_compute=distributed)
        self.set_dtype(torch.float64)
        dim = len(origin)
        self.register_buffer("origin", origin.double())
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(dim, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("outer", torch.zeros(dim, dim, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor) -> None:
        """Add features [N, D]. Raises ValueError for another width, NaN or infinity."""
        if features.ndim != 2 or features.shape[1] != len(self.origin):
            raise ValueError(
                f"Features of shape {tuple(features.shape)}; expected [N, {len(self.origin)}] as the reference."
            )
        shifted = features.to(self.origin) - self.origin  # sums around the origin keep their digits
        bad = ~shifted.isfinite().all(1)
        if bad.any():
            raise ValueError(f"{int(bad.sum())} of {len(bad)} samples have features that are NaN or infinite.")
        self.count += len(shifted)
        self.total += shifted.sum(0)
        self.outer += shifted.T @ shifted

    def moments(self) -> tuple[Tensor, Tensor]:
        """(mean [D], unbiased covariance [D, D]) of the features that this rank has seen."""
        if self.count < 2:
            raise ValueError(f"The Frechet distance needs two samples or more; found {int(self.count)}.")
        offset = self.total / self.count
        cov = (self.outer - self.count * torch.outer(offset, offset)) / (self.count - 1)
        return self.origin + offset, cov

    def compute(self) -> tuple[Tensor, Tensor]:
        """The moments over all ranks. Raises ValueError below two samples."""
        return self.moments()


class FrechetDistance(Moments):
    """Frechet distance of the features seen to a reference (mean [D], covariance [D, D])."""

    mean: Tensor
    cov: Tensor

    def __init__(self, mean: Tensor, cov: Tensor, distributed: bool = True) -> None:
        super().__init__(mean, distributed)
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
