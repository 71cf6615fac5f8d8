"""Attention's value and tangent by definition, and inputs for them."""

import torch
from torch import Tensor

from helpers import seeded

NAMES = ("q", "k", "v", "dq", "dk", "dv")


def random_inputs(N: int, D: int, dtype: torch.dtype = torch.float32, heads: int = 2, batch: int = 1) -> list[Tensor]:
    """q, k, v, dq, dk, dv [batch, heads, N, D]; v far from zero, where rowsum(H) o and H v are both large."""
    q, k, v, *tangents = (torch.randn(batch, heads, N, D, generator=seeded(i), dtype=torch.float64) for i in range(6))
    return [part.to(dtype) for part in (q, k, v + 1, *tangents)]


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1) @ v


def by_definition(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """(o, do) in float64 by forward-mode differentiation."""
    wide = tuple(part.double() for part in inputs)
    return torch.func.jvp(attend, wide[:3], wide[3:])


def without_rowsum(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The mistake do = H v + P dv."""
    q, k, v, dq, dk, dv = (part.double() for part in inputs)
    scale = q.shape[-1] ** -0.5
    P = torch.softmax(q @ k.mT * scale, dim=-1)
    return P @ v, P * (dq @ k.mT + q @ dk.mT) * scale @ v + P @ dv


def without_dk(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The mistake H = P * dq k^T scale."""
    return by_definition(*inputs[:4], torch.zeros_like(inputs[4]), inputs[5])


MISTAKES = {"rowsum": without_rowsum, "dk": without_dk}
