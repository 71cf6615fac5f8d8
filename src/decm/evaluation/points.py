"""2-D: the sliced Wasserstein distance to exact samples, and the errors of the four maps against the exact flow."""

from typing import Protocol

import torch
from torch import Tensor

from decm.flow.flow_map import FlowMap
from decm.flow.randomness import generator, normal, uniform


class ExactFlow(Protocol):
    """A flow whose velocity and map are known."""

    def velocity(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor: ...

    def flow_map(self, x: Tensor, t: Tensor, s: Tensor, y: Tensor | None = None) -> Tensor: ...


def sliced_wasserstein(a: Tensor, b: Tensor, projections: int = 128) -> float:
    """sqrt of the mean over directions of the squared 2-Wasserstein distance of a, b [N, D, ...] projected on them."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    if len(a) != len(b):
        raise ValueError(f"Found {len(a)} and {len(b)} points; expected two sets of the same size.")
    directions = torch.from_numpy(generator(0, "directions", 0).standard_normal((a.shape[1], projections)))
    directions = directions / directions.norm(dim=0)
    return float((((a @ directions).sort(0).values - (b @ directions).sort(0).values) ** 2).mean().sqrt())


class MapErrors:
    """Root-mean-square errors per dimension against the exact flow, over `num` noises drawn from `seed`.

    `0_1`: f(z, 0, 1); `0_t`: f(z, 0, t); `t_1`: f(x_t, t, 1) from exact points x_t of trajectories; `v`: F(x_t, t, t);
    t uniform per noise. The exact values are computed once, on first use.
    """

    def __init__(self, exact: ExactFlow, shape: tuple[int, ...], num: int = 8192, seed: int = 0) -> None:
        self.exact, self.shape, self.num, self.seed = exact, shape, num, seed
        self._truth: dict[str, Tensor] | None = None

    def truth(self) -> dict[str, Tensor]:
        """Noises z, times t, and the exact f(z, 0, t), f(z, 0, 1) and v at (f(z, 0, t), t)."""
        if self._truth is None:
            index = torch.arange(self.num)
            z, t = normal(self.seed, "map/noise", index, self.shape), uniform(self.seed, "map/time", index)
            x_t = self.exact.flow_map(z, torch.zeros_like(t), t)
            x_1 = self.exact.flow_map(x_t, t, torch.ones_like(t))
            self._truth = {"z": z, "t": t, "x_t": x_t, "x_1": x_1, "v": self.exact.velocity(x_t, t)}
        return self._truth

    @torch.no_grad()  # as generate
    def __call__(self, flow_map: FlowMap, device: torch.device | str = "cpu") -> dict[str, float]:
        z, t, x_t, x_1, v = (self.truth()[key].to(device) for key in ("z", "t", "x_t", "x_1", "v"))
        zero, one, y = torch.zeros_like(t), torch.ones_like(t), torch.zeros_like(t, dtype=torch.int64)
        errors = {
            "0_1": flow_map(z, zero, one, y) - x_1,
            "0_t": flow_map(z, zero, t, y) - x_t,
            "t_1": flow_map(x_t, t, one, y) - x_1,
            "v": flow_map.velocity(x_t, t, y) - v,
        }
        return {name: float(error.flatten(1).square().mean(1).mean().sqrt()) for name, error in errors.items()}
