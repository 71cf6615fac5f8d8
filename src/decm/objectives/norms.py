"""Norms and distances of a sample, which losses and targets are made of."""

import torch
from torch import Tensor


def mean_square(x: Tensor) -> Tensor:
    """e(x): the mean square over a sample's dimensions, [B, ...] -> [B]."""
    return x.flatten(1).square().mean(1)


def root_mean_square(x: Tensor) -> Tensor:
    """rms(x) over a sample's dimensions, [B, ...] -> [B]; its gradient at zero is not defined."""
    return mean_square(x).sqrt()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Mean over positions of the cosine over channels, [B, C, H, W] -> [B] (FACM's published code).

    Where there is a single position (2-D states [B, D, 1, 1]) it is the cosine over the whole sample.
    """
    return torch.nn.functional.cosine_similarity(a, b, dim=1).flatten(1).mean(1)
