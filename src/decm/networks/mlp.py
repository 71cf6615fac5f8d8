"""A residual perceptron for points: F(x, t, s, y) on states [B, D, 1, 1]."""

import torch
from torch import Tensor, nn

from decm.networks import dual
from decm.networks.dual import Dual
from decm.networks.layers import EndEmbedding, TimeEmbedding


class MLP(nn.Module):
    """F(x, t, s, y): [B, D, 1, 1], times [B], labels [B] (num_classes: the null label) -> [B, D, 1, 1].

    Each of `depth` layers adds a SiLU perceptron of the state, shifted by the condition emb_t(t) + emb_s(s) + emb_y(y).
    """

    supports_tangents = True

    def __init__(
        self, in_channels: int, hidden_size: int, depth: int, num_classes: int, two_times: bool = True,
        end_embedding: str = "difference", time_scale: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.shape = (in_channels, 1, 1)
        self.num_classes, self.two_times = num_classes, two_times
        self.x_embedder = nn.Linear(in_channels, hidden_size)
        self.t_embedder = TimeEmbedding(hidden_size, time_scale)
        self.s_embedder = EndEmbedding(hidden_size, end_embedding, time_scale) if two_times else None
        self.y_embedder = nn.Embedding(num_classes + 1, hidden_size)
        nn.init.normal_(self.y_embedder.weight, std=0.02)
        self.layers = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(depth))
        self.out = nn.Linear(hidden_size, in_channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, x: Tensor, t: Tensor, s: Tensor, y: Tensor, tangents: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> Tensor | Dual:
        """F, or (F, dF) with `tangents` (dx, dt, ds); dF has no gradient."""
        if tangents is not None:
            return self._dual(x, t, s, y, *tangents)
        c = self.t_embedder(t) + self.y_embedder(y)
        if self.s_embedder is not None:
            c = c + self.s_embedder(t, s)
        h = self.x_embedder(x.flatten(1))
        for layer in self.layers:
            h = h + torch.nn.functional.silu(layer(h + c))
        return self.out(h).reshape(x.shape)

    def _dual(self, x: Tensor, t: Tensor, s: Tensor, y: Tensor, dx: Tensor, dt: Tensor, ds: Tensor) -> Dual:
        c, dc = self.t_embedder.dual(t, dt)
        c = c + self.y_embedder(y)
        if self.s_embedder is not None:
            end, dend = self.s_embedder.dual(t, dt, s, ds)
            c, dc = c + end, dc + dend
        h, dh = dual.linear(self.x_embedder, x.flatten(1), dx.flatten(1))
        for layer in self.layers:
            step, dstep = dual.silu(*dual.linear(layer, h + c, dh + dc))  # type: ignore[arg-type]
            h, dh = h + step, dh + dstep
        F, dF = dual.linear(self.out, h, dh)
        return F.reshape(x.shape), dF.reshape(x.shape)
