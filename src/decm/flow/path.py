"""The straight path between noise and data, and the legend of every symbol in flow/ and objectives/.

    x   data, at time 1          z   noise, at time 0         y   label (y == num_classes is the null label)
    t   the anchor's time        s   a segment's end          r   a start near noise
    v   instantaneous velocity   F   average velocity         f   flow map: f(x, t, s) = x + (s - t) F(x, t, s)
    g   a law's tangent, zero at the exact flow map           B   batch; times are [B], states [B, ...]

MeanFlow and EDM count the other way (data at 0).
"""

import torch
from torch import Tensor


def expand(t: Tensor, x: Tensor) -> Tensor:
    """Times [B] as [B, 1, ...], to broadcast against the states x [B, ...]."""
    return t.reshape(t.shape[0], *(1,) * (x.ndim - 1))


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`; on CUDA without waiting for what the device does."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return (tensor.pin_memory() if torch.cuda.is_available() else tensor).to(device, non_blocking=True)


def interpolate(x: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """x_t = (1 - t) z + t x."""
    t = expand(t, x)
    return (1 - t) * z + t * x


def conditional_velocity(x: Tensor, z: Tensor) -> Tensor:
    """d x_t / dt = x - z, whose mean given x_t is the velocity of the flow (arXiv:2210.02747 Sec. 4)."""
    return x - z
