"""A transformer compatible with LightningDiT (arXiv:2501.01423), conditioned on two times and a label."""

import torch
from timm.layers import RotaryEmbeddingCat, build_sincos2d_pos_embed
from torch import Tensor, nn

from decm.networks.dual import Dual
from decm.networks.layers import Block, EndEmbedding, FinalLayer, TimeEmbedding


class LightningDiT(nn.Module):
    """F(x, t, s, y): [B, C, H, W], times [B] in [0, 1], labels [B] (num_classes: the null label) -> [B, C, H, W].

    The condition is emb_t(t) + emb_s(s) + emb_y(y). The end embedding's last layer starts at zero, so that a student
    initialized from a teacher begins as F(x, t, s) = v(x, t). With `two_times=False` (a teacher) s is ignored.
    `time_scale` multiplies the times before their features (1 in the published networks).
    Raises ValueError where patch size, width or heads do not divide.
    """

    supports_tangents = True

    def __init__(
        self, input_size: int, patch_size: int, in_channels: int, hidden_size: int, depth: int, num_heads: int,
        mlp_ratio: float, num_classes: int, qk_norm: bool, two_times: bool = True, end_embedding: str = "raw",
        time_scale: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if input_size % patch_size or hidden_size % num_heads or (hidden_size // num_heads) % 4:
            raise ValueError(
                f"input_size={input_size} must be a multiple of patch_size={patch_size}, and hidden_size={hidden_size} "
                f"a multiple of num_heads={num_heads} with a head dimension divisible by 4 (2-D RoPE)."
            )
        side = input_size // patch_size
        self.shape = (in_channels, input_size, input_size)
        self.num_classes, self.patch_size, self.two_times = num_classes, patch_size, two_times
        self.x_embedder = nn.Conv2d(in_channels, hidden_size, patch_size, stride=patch_size)
        nn.init.xavier_uniform_(self.x_embedder.weight.flatten(1))
        nn.init.zeros_(self.x_embedder.bias)  # type: ignore[arg-type]
        self.t_embedder = TimeEmbedding(hidden_size, time_scale)
        self.s_embedder = EndEmbedding(hidden_size, end_embedding, time_scale) if two_times else None
        self.y_embedder = nn.Embedding(num_classes + 1, hidden_size)
        nn.init.normal_(self.y_embedder.weight, std=0.02)
        self.register_buffer("pos_embed", build_sincos2d_pos_embed([side, side], hidden_size)[None])
        rope = RotaryEmbeddingCat(hidden_size // num_heads, in_pixels=False, feat_shape=[side, side], temperature=1e4)
        self.register_buffer("rope", rope.get_embed(), persistent=False)
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads, mlp_ratio, qk_norm) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * in_channels)

    def forward(
        self, x: Tensor, t: Tensor, s: Tensor, y: Tensor, tangents: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> Tensor | Dual:
        """F, or (F, dF) with `tangents` (dx, dt, ds); dF has no gradient."""
        if tangents is not None:
            return self._dual(x, t, s, y, *tangents)
        c = self.t_embedder(t) + self.y_embedder(y)
        if self.s_embedder is not None:
            c = c + self.s_embedder(t, s)
        h = self.x_embedder(x).flatten(2).transpose(1, 2) + self.pos_embed  # [B, N, width]
        for block in self.blocks:
            h = block(h, c, self.rope)
        return self._unpatchify(self.final_layer(h, c))

    def _dual(self, x: Tensor, t: Tensor, s: Tensor, y: Tensor, dx: Tensor, dt: Tensor, ds: Tensor) -> Dual:
        c, dc = self.t_embedder.dual(t, dt)
        c = c + self.y_embedder(y)
        if self.s_embedder is not None:
            end, dend = self.s_embedder.dual(t, dt, s, ds)
            c, dc = c + end, dc + dend
        h = self.x_embedder(x).flatten(2).transpose(1, 2) + self.pos_embed
        with torch.no_grad():
            dh = nn.functional.conv2d(dx, self.x_embedder.weight, stride=self.patch_size).flatten(2).transpose(1, 2)
        for block in self.blocks:
            h, dh = block.dual(h, dh, c, dc, self.rope)  # type: ignore[operator]
        h, dh = self.final_layer.dual(h, dh, c, dc)
        return self._unpatchify(h), self._unpatchify(dh)

    def _unpatchify(self, tokens: Tensor) -> Tensor:
        """Tokens [B, h w, p q c] -> images [B, c, h p, w q]."""
        (C, H, W), p = self.shape, self.patch_size
        return torch.einsum("bhwpqc->bchpwq", tokens.unflatten(2, (p, p, C)).unflatten(1, (H // p, W // p))).reshape(
            -1, C, H, W
        )
