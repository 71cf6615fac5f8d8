"""Features of networks with random weights, for trials: everything runs, and the numbers mean nothing."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from decm.features.extractor import KEY, check_images
from decm.features.inception import InceptionFeatures


class RandomInceptionFeatures(InceptionFeatures):
    """The same network with random weights of a fixed seed: everything runs, and the numbers mean nothing."""

    name, metric = "random_inception", "fid"
    note = "RANDOM Inception weights: the numbers mean nothing, they only show that everything runs"
    meaningless = True
    seed = 0

    def read(self, weights: str | Path | None, key: str) -> dict[str, Tensor]:
        refuse_weights(self.name, weights, key)
        return {}

    def fill(self, tensors: dict[str, Tensor], source: str) -> None:
        fill_at_random(self.network, self.seed)


class RandomFeatures(nn.Module):
    """A small convolutional network with random weights of a fixed seed, for trials: much faster than Inception.

    `pool` [N, 64], `spatial` [N, 4 * 4 * 4] and `logits` [N, 10]; images of 4 x 4 pixels and more.
    """

    name, metric, resize = "random_small", "fd", "none"
    note = "RANDOM small features: the numbers mean nothing, they only show that everything runs"
    meaningless, labels_are_classes = True, False
    dims: Mapping[str, int] = {"pool": 64, "spatial": 64, "logits": 10}

    def __init__(self, weights: str | Path | None = None, key: str = KEY) -> None:
        super().__init__()
        refuse_weights(self.name, weights, key)
        self.body = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(64, 10)
        fill_at_random(self, seed=0)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = check_images(images).to(self.head.weight.device).float() / 127.5 - 1
        found = self.body(x)
        pool = found.mean((2, 3))
        spatial = nn.functional.adaptive_avg_pool2d(found[:, :4], 4).flatten(1)
        return {"pool": pool, "spatial": spatial, "logits": self.head(pool)}


def refuse_weights(features: str, weights: str | Path | None, key: str) -> None:
    """Raise ValueError where random features are given weights."""
    if weights is not None:
        raise ValueError(f"features={features} takes no weights; found {key}={weights}. Did you mean inception?")


def fill_at_random(network: nn.Module, seed: int) -> None:
    """Random weights that keep the variance from layer to layer, so that the features do not vanish; biases zero."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            std = ((2 if isinstance(module, nn.Conv2d) else 1) / module.weight[0].numel()) ** 0.5
            module.weight.data.copy_(std * torch.randn(module.weight.shape, generator=generator))
            if module.bias is not None:
                module.bias.data.zero_()
