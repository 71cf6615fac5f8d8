"""F and its directional derivative dF, for any network, behind one name: `dual`, `split`, `finite_difference`.

A network that sets `supports_tangents = True` is called as `net(x, t, s, y, tangents=(dx, dt, ds)) -> (F, dF)`;
any other goes through `torch.func.jvp` as a whole. In every engine F keeps its gradient graph and dF has none.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Network = Callable[..., Tensor]
Tangents = tuple[Tensor, Tensor, Tensor]  # (dx [B, ...], dt [B], ds [B])
Engine = Callable[[Network, Tensor, Tensor, Tensor, Tensor, Tangents], tuple[Tensor, Tensor]]


def one_pass(net: Network, x: Tensor, t: Tensor, s: Tensor, y: Tensor, tangents: Tangents) -> tuple[Tensor, Tensor]:
    """(F, dF) by forward-mode differentiation, in one pass."""
    if supports_tangents(net):
        F, dF = net(x, t, s, y, tangents=tangents)
        return F, dF
    if isinstance(net, torch.nn.Module):
        warnings.warn(  # Python shows it once
            f"{type(net).__name__} does not take tangents: torch.func.jvp differentiates it as a whole, which takes "
            "longer, unfuses its attention and keeps more activations. See networks/tangent_rules.py for what takes "
            "them.",
            stacklevel=2,
        )
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward derivative (pytorch#128971)
        value = torch.func.jvp(lambda x, t, s: net(x, t, s, y), (x, t, s), tangents)
        F, dF = value[0], value[1]
    return F, dF.detach()


def supports_tangents(net: Network) -> bool:
    """Whether a network carries tangents by itself."""
    return getattr(net, "supports_tangents", False)


def split(net: Network, x: Tensor, t: Tensor, s: Tensor, y: Tensor, tangents: Tangents) -> tuple[Tensor, Tensor]:
    """(F, dF) by an ordinary forward and a pass with tangents without gradient: for activation checkpointing."""
    F = net(x, t, s, y)  # first: autocast would keep weights that were cast without a gradient
    with torch.no_grad():
        return F, one_pass(net, x, t, s, y, tangents)[1]


def finite_difference(
    net: Network, x: Tensor, t: Tensor, s: Tensor, y: Tensor, tangents: Tangents, eps: float = 3e-3
) -> tuple[Tensor, Tensor]:
    """(F, dF) with dF from a central difference of half-width eps (relative error about 5e-5 in float32)."""
    dx, dt, ds = tangents
    F = net(x, t, s, y)
    with torch.no_grad():
        ahead = net(x + eps * dx, t + eps * dt, s + eps * ds, y)
        behind = net(x - eps * dx, t - eps * dt, s - eps * ds, y)
    return F, (ahead - behind) / (2 * eps)


ENGINES: dict[str, Engine] = {"dual": one_pass, "split": split, "finite_difference": finite_difference}
