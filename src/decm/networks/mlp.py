"""A residual perceptron for points: F(x, t, s, y) on states [B, D, 1, 1]."""

import torch
from torch import Tensor, nn

from decm.networks import tangent_rules
from decm.networks.layers import Conditioned
from decm.networks.tangent_rules import WithTangent


class MLP(Conditioned):
    """F(x, t, s, y): [B, D, 1, 1], times [B], labels [B] (num_classes: the null label) -> [B, D, 1, 1].

    Each of `depth` layers adds a SiLU perceptron of the state, shifted by the condition emb_t(t) + emb_s(s) + emb_y(y).
    """

    def __init__(
        self,
        in_channels: int,
        hidden_size: int,
        depth: int,
        num_classes: int,
        two_times: bool = True,
        end_embedding: str = "difference",
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.shape = (in_channels, 1, 1)
        self.x_embedder = nn.Linear(in_channels, hidden_size)
        self.condition_on(hidden_size, num_classes, two_times, end_embedding, time_scale)
        self.layers = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(depth))
        self.out = nn.Linear(hidden_size, in_channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, x: Tensor, t: Tensor, s: Tensor, y: Tensor, tangents: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> Tensor | WithTangent:
        """F, or (F, dF) with `tangents` (dx, dt, ds), of the type of x; dF has no gradient."""
        dtype = self.x_embedder.weight.dtype
        h = self.x_embedder(x.flatten(1).to(dtype))
        if tangents is None:
            c = self.condition(t, s, y).to(dtype)
            for layer in self.layers:
                h = h + torch.nn.functional.silu(layer(h + c))
            return self.out(h).reshape(x.shape).to(x.dtype)
        dx, dt, ds = tangents
        c, dc = (part.to(dtype) for part in self.condition_with_tangent(t, s, y, dt, ds))
        with torch.no_grad():
            dh = nn.functional.linear(dx.flatten(1).to(dtype), self.x_embedder.weight)
        for layer in self.layers:
            step, dstep = tangent_rules.silu(*tangent_rules.linear(layer, h + c, dh + dc))  # type: ignore[arg-type]
            h, dh = h + step, dh + dstep
        F, dF = tangent_rules.linear(self.out, h, dh)
        return F.reshape(x.shape).to(x.dtype), dF.reshape(x.shape).to(x.dtype)
