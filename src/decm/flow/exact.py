"""Flows whose velocity and flow map are known: the ground truth of the tests and of the 2-D experiments."""

import math

import torch
from torch import Tensor

from decm.flow.path import expand, moved


class GaussianFlow:
    """The flow from N(0, 1) to N(mean, sigma^2) per dimension, in closed form.

    v(x, t) = m + (t sigma^2 - (1 - t)) / sd(t)^2 (x - t m),    f(x, t, s) = s m + sd(s) / sd(t) (x - t m),
    sd(t) = sqrt((1 - t)^2 + t^2 sigma^2).
    """

    def __init__(self, mean: float, sigma: float) -> None:
        self.mean, self.sigma = mean, sigma

    def _variance(self, t: Tensor) -> Tensor:
        return (1 - t) ** 2 + (t * self.sigma) ** 2

    def velocity(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """v(x, t), [B, ...]."""
        t = expand(moved(t, x.device), x)
        return self.mean + (t * self.sigma**2 - (1 - t)) / self._variance(t) * (x - t * self.mean)

    def flow_map(self, x: Tensor, t: Tensor, s: Tensor, y: Tensor | None = None) -> Tensor:
        """f(x, t, s), [B, ...]."""
        t, s = expand(t, x), expand(s, x)
        return s * self.mean + (self._variance(s) / self._variance(t)).sqrt() * (x - t * self.mean)

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, y: Tensor | None = None) -> Tensor:
        """F(x, t, s) without dividing by s - t, so that it is exact and smooth at s = t too.

        (sd(s)/sd(t) - 1) / (s - t) = ((s + t)(1 + sigma^2) - 2) / (sd(t) (sd(s) + sd(t))).
        """
        t, s = expand(t, x), expand(s, x)
        sd_t, sd_s = self._variance(t).sqrt(), self._variance(s).sqrt()
        return self.mean + ((s + t) * (1 + self.sigma**2) - 2) / (sd_t * (sd_s + sd_t)) * (x - t * self.mean)


class MixtureFlow:
    """The flow from N(0, I) to a mixture of isotropic Gaussians of equal weight: velocity in closed form.

    v(x, t) is the responsibility-weighted mean of the components' Gaussian velocities; the flow map is a
    Runge-Kutta solve of `steps` steps in float64 (error below 1e-6 for sigma = 0.1 at 200 steps).
    `means` is [K, D]; states are [B, D, 1, 1], as images of one position.
    """

    def __init__(self, means: Tensor, sigma: float, steps: int = 200) -> None:
        self.means, self.sigma, self.steps = means, sigma, steps

    def velocity(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """v(x, t), [B, D, 1, 1]."""
        point, time = x.flatten(1), moved(t, x.device).reshape(-1, 1).to(x.dtype)  # [B, D], [B, 1]
        means = self.means.to(x)
        variance = (1 - time) ** 2 + (time * self.sigma) ** 2  # [B, 1]
        offset = point[:, None] - time[:, None] * means  # [B, K, D]
        weight = torch.softmax(-offset.square().sum(-1) / (2 * variance), dim=1)  # [B, K]
        slope = (time * self.sigma**2 - (1 - time)) / variance
        v = (weight[..., None] * (means + slope[..., None] * offset)).sum(1)
        return v.reshape(x.shape)

    def flow_map(self, x: Tensor, t: Tensor, s: Tensor, y: Tensor | None = None) -> Tensor:
        """f(x, t, s) by a classical Runge-Kutta solve; the result has x's type."""
        state, time = x.double(), t.double()
        h = (s.double() - time) / self.steps
        H = expand(h, state)
        for _ in range(self.steps):
            k1 = self.velocity(state, time)
            k2 = self.velocity(state + H / 2 * k1, time + h / 2)
            k3 = self.velocity(state + H / 2 * k2, time + h / 2)
            k4 = self.velocity(state + H * k3, time + h)
            state, time = state + H / 6 * (k1 + 2 * k2 + 2 * k3 + k4), time + h
        return state.to(x)

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, y: Tensor | None = None) -> Tensor:
        """F(x, t, s): v where s = t, else (f(x, t, s) - x) / (s - t)."""
        same = s == t
        gap = expand(torch.where(same, torch.ones_like(s), s - t), x)
        average = (self.flow_map(x, t, s) - x) / gap if not bool(same.all()) else x
        return torch.where(expand(same, x), self.velocity(x, t), average)


def ring(components: int, radius: float) -> Tensor:
    """Means [K, 2] on a circle."""
    angle = torch.arange(components, dtype=torch.float64) * (2 * math.pi / components)
    return radius * torch.stack([angle.cos(), angle.sin()], dim=1)


def grid(side: int, spacing: float) -> Tensor:
    """Means [side^2, 2] on a square grid around the origin."""
    at = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) * spacing
    return torch.cartesian_prod(at, at)
