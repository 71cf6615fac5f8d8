"""What several test files share: small networks, random states, and how errors are measured."""

import torch
from torch import Tensor, nn

from decm.flow.derivative import Network
from decm.flow.velocity import GuidedVelocity
from decm.networks.dit import LightningDiT
from decm.networks.mlp import MLP

CLASSES = 5


def relative_error(value: Tensor, truth: Tensor) -> float:
    """||value - truth|| / ||truth||."""
    return float((value - truth).detach().norm() / truth.detach().norm())


def largest(x: Tensor) -> float:
    """max |x|."""
    return float(x.detach().abs().max())


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_states(batch: int, shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, *shape, generator=seeded(seed), dtype=dtype)


def random_times(batch: int, low: float, high: float, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return low + (high - low) * torch.rand(batch, generator=seeded(seed), dtype=dtype)


def random_labels(batch: int, seed: int = 2, classes: int = CLASSES) -> Tensor:
    return torch.randint(classes, (batch,), generator=seeded(seed))


def unguided(net: Network) -> GuidedVelocity:
    """v(x, t, y) = net(x, t, t, y)."""
    return GuidedVelocity(net, null=0)


def no_labels(batch: int) -> Tensor:
    return torch.zeros(batch, dtype=torch.long)


@torch.no_grad()
def randomize_parameters(module: nn.Module, seed: int = 0, spare: str = "") -> nn.Module:
    """Every parameter at random (many start at zero), except those whose name begins with `spare`."""
    generator = seeded(seed)
    for name, parameter in module.named_parameters():
        scale = parameter.shape[1:].numel() ** -0.5 if parameter.ndim > 1 else 0.5
        noise = scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        if not (spare and name.startswith(spare)):
            parameter.copy_(noise)
    return module


def small_dit(end_embedding: str = "raw", two_times: bool = True) -> LightningDiT:
    """A transformer on [B, 2, 8, 8] with 4 tokens."""
    return LightningDiT(
        8,
        4,
        in_channels=2,
        hidden_size=32,
        depth=2,
        num_heads=4,
        mlp_ratio=4.0,
        num_classes=CLASSES,
        qk_norm=True,
        two_times=two_times,
        end_embedding=end_embedding,
    )


def small_mlp(end_embedding: str = "difference", two_times: bool = True) -> MLP:
    """A perceptron on [B, 2, 1, 1]."""
    return MLP(2, 32, 2, CLASSES, two_times, end_embedding)


class Counting:
    """A network that counts its calls and rows."""

    def __init__(self, net) -> None:
        self.net, self.calls, self.rows = net, 0, 0

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, y: Tensor) -> Tensor:
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        return self.net(x, t, s, y)
