"""Velocity fields field(x, t, y) -> v, all without gradient: the guided teacher, and exact flows in its place."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from decm.flow.derivative import Network
from decm.flow.path import expand, moved

Field = Callable[[Tensor, Tensor, Tensor], Tensor]  # its times may be on the CPU, whatever the states' device


class GuidedVelocity:
    """v = v_c + (w - 1) min(1, eta / ||dv||) dv with dv = v_c - v_u, and v = v_c where t < low or t > high.

    DE-CM Sec. 3.4 (velocity normalization) on classifier-free guidance; the interval is arXiv:2404.07724's.
    `eta_rms` is eta per dimension, eta = eta_rms sqrt(D), so that it carries over between resolutions; None switches
    normalization off. `null` is the label without a class. The teacher is called once, as net(x, t, t, y), for the
    conditional and the unconditional velocity together; the latter is computed for the rows in the interval alone.
    Which rows these are is decided where the times are: for times on the CPU the host does not wait for the device.
    """

    def __init__(
        self,
        net: Network,
        null: int,
        scale: float = 1.0,
        eta_rms: float | None = None,
        low: float = 0.0,
        high: float = 1.0,
    ) -> None:
        if scale < 1 or not 0 <= low <= high <= 1 or (eta_rms is not None and eta_rms <= 0):
            raise ValueError(
                f"Guidance has scale={scale}, eta_rms={eta_rms}, interval [{low}, {high}]; "
                "expected scale >= 1, eta_rms > 0 or null, and 0 <= low <= high <= 1."
            )
        self.net, self.null, self.scale, self.eta_rms, self.low, self.high = net, null, scale, eta_rms, low, high

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The guided velocity [B, ...] at states x [B, ...], times t [B] (there, or on the CPU), labels y [B]."""
        here = moved(t, x.device)
        if self.scale == 1:
            return self.net(x, here, here, y)
        inside = moved(((t >= self.low) & (t <= self.high)).nonzero().flatten(), x.device)
        times = torch.cat([here, here[inside]])
        labels = torch.cat([y, torch.full_like(y[inside], self.null)])
        both = self.net(torch.cat([x, x[inside]]), times, times, labels)
        v_c, v_u = both.split([len(x), len(inside)])
        dv = v_c[inside] - v_u
        gain = torch.full_like(here[inside], self.scale - 1)
        if self.eta_rms is not None:
            norm = dv.flatten(1).norm(dim=1).clamp(min=torch.finfo(dv.dtype).tiny)
            gain = gain * (self.eta_rms * math.sqrt(x[0].numel()) / norm).clamp(max=1)
        return v_c.index_add(0, inside, expand(gain, dv) * dv)
