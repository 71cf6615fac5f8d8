"""The Frechet distance between Gaussians fitted to features, in float64."""

import torch
from torch import Tensor
from torchmetrics import Metric


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2)), arXiv:1706.08500 Eq. 6.

    The trace term is the sum of the square roots of the eigenvalues of A^(1/2) B A^(1/2), which is symmetric and
    positive semi-definite also where a covariance is rank-deficient; no matrix square root of a product is taken.
    """
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


class FrechetDistance(Metric):
    """Frechet distance of the features seen to a reference (mean [D], covariance [D, D]); sums are reduced over ranks.

    Call `update(features [N, D])`; `compute()` raises ValueError below two samples. The covariance is unbiased.
    """

    full_state_update = False
    mean: Tensor
    cov: Tensor
    count: Tensor
    total: Tensor
    outer: Tensor

    def __init__(self, mean: Tensor, cov: Tensor) -> None:
        super().__init__()
        self.set_dtype(torch.float64)
        self.register_buffer("mean", mean.double())
        self.register_buffer("cov", cov.double())
        dim = len(mean)
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(dim, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("outer", torch.zeros(dim, dim, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor) -> None:
        shifted = features.double() - self.mean  # sums around the reference's mean keep their digits
        self.count += len(shifted)
        self.total += shifted.sum(0)
        self.outer += shifted.T @ shifted

    def moments(self) -> tuple[Tensor, Tensor]:
        """(mean [D], unbiased covariance [D, D]) of the features seen."""
        if self.count < 2:
            raise ValueError(f"The Frechet distance needs two samples or more; found {int(self.count)}.")
        offset = self.total / self.count
        cov = (self.outer - self.count * torch.outer(offset, offset)) / (self.count - 1)
        return self.mean + offset, cov

    def compute(self) -> Tensor:
        mean, cov = self.moments()
        return torch.tensor(frechet_distance(mean, cov, self.mean, self.cov), dtype=torch.float64)


def fit(features: Tensor) -> tuple[Tensor, Tensor]:
    """(mean [D], unbiased covariance [D, D]) of features [N, D], in float64."""
    features = features.double()
    return features.mean(0), torch.cov(features.T)
