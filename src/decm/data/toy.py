"""2-D mixtures of Gaussians, whose velocity and flow map are known exactly (flow/exact.py)."""

import hashlib

import torch
from torch import Tensor

from decm.data.manifest import Manifest
from decm.flow import exact
from decm.flow.randomness import normal, uniform


class MixturePoints:
    """Endless samples of an isotropic mixture with equal weights, as states [B, 2, 1, 1]; unconditional.

    `layout` is `ring` (`components` on a circle of radius `size`) or `grid` (components a square number, `size`
    apart). Raises ValueError for anything else.
    """

    def __init__(self, layout: str, components: int, size: float, sigma: float) -> None:
        side = round(components**0.5)
        if layout not in ("ring", "grid") or components < 1 or (layout == "grid" and side**2 != components):
            raise ValueError(f"A {layout!r} of {components} components; expected ring, or grid of a square number.")
        self.means = exact.ring(components, size) if layout == "ring" else exact.grid(side, size)
        self.sigma = sigma
        settings = f"{layout}/{components}/{size}/{sigma}"
        self.manifest = Manifest(
            name=f"{layout}{components}",
            shape=(2, 1, 1),
            num_classes=0,
            mean=(0.0, 0.0),
            std=(1.0, 1.0),
            split={"train": "endless"},
            content_hash=hashlib.sha256(settings.encode()).hexdigest(),
            origin=f"mixture of {components} Gaussians on a {layout}, size {size}, sigma {sigma}",
            extra={"limit": float(self.means.abs().max()) + 5 * sigma},  # of pictures: five deviations beyond all means
        )

    def batch(self, seed: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """Samples number `index` [B] of the run: (x [B, 2, 1, 1], y [B] all null)."""
        return self.points(seed, "data", index), torch.zeros_like(index)

    def points(self, seed: int, purpose: str, index: Tensor) -> Tensor:
        """Points [B, 2, 1, 1] of the stream `purpose`."""
        component = (uniform(seed, f"{purpose}/component", index) * len(self.means)).long()
        offset = self.sigma * normal(seed, purpose, index, (2,))
        return (self.means[component].float() + offset).reshape(-1, 2, 1, 1)

    def exact_flow(self) -> exact.MixtureFlow:
        """The flow that carries N(0, I) to this mixture."""
        return exact.MixtureFlow(self.means.to(torch.float64), self.sigma)
