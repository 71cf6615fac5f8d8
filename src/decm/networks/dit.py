"""A transformer compatible with LightningDiT (arXiv:2501.01423), conditioned on two times and a label."""

from collections.abc import Sequence

import torch
from timm.layers import RotaryEmbeddingCat, build_sincos2d_pos_embed
from torch import Tensor, nn

from decm.networks.layers import Block, Conditioned, FinalLayer
from decm.networks.tangent_rules import WithTangent


class LightningDiT(Conditioned):
    """F(x, t, s, y): [B, C, H, W], times [B] in [0, 1], labels [B] (num_classes: the null label) -> [B, C, H, W].

    `input_size` is the side of squares, or [H, W]; `time_scale` multiplies the times before their features (1 in the
    published networks). Raises ValueError where patch size, width or heads do not divide.
    """

    def __init__(
        self,
        input_size: int | Sequence[int],
        patch_size: int,
        in_channels: int,
        hidden_size: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        num_classes: int,
        qk_norm: bool,
        two_times: bool = True,
        end_embedding: str = "raw",
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        sides = [input_size] * 2 if isinstance(input_size, int) else list(input_size)
        if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
            raise ValueError(f"input_size={input_size}; expected the side of squares, or [height, width].")
        if any(side % patch_size for side in sides) or hidden_size % num_heads or (hidden_size // num_heads) % 4:
            raise ValueError(
                f"input_size={input_size} must be a multiple of patch_size={patch_size}, and hidden_size={hidden_size} "
                f"a multiple of num_heads={num_heads} with a head dimension divisible by 4 (2-D RoPE)."
            )
        self.shape = (in_channels, *sides)
        self.patch_size = patch_size
        self.x_embedder = nn.Conv2d(in_channels, hidden_size, patch_size, stride=patch_size)
        nn.init.xavier_uniform_(self.x_embedder.weight.flatten(1))
        nn.init.zeros_(self.x_embedder.bias)  # type: ignore[arg-type]
        self.condition_on(hidden_size, num_classes, two_times, end_embedding, time_scale)
        self.pos_embed: Tensor
        grid = [side // patch_size for side in sides]
        self.register_buffer("pos_embed", build_sincos2d_pos_embed(grid, hidden_size)[None])
        rope = RotaryEmbeddingCat(hidden_size // num_heads, in_pixels=False, feat_shape=grid, temperature=1e4)
        self.register_buffer("rope", rope.get_embed(), persistent=False)
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads, mlp_ratio, qk_norm) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * in_channels)

    def forward(
        self, x: Tensor, t: Tensor, s: Tensor, y: Tensor, tangents: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> Tensor | WithTangent:
        """F, or (F, dF) with `tangents` (dx, dt, ds), of the type of x; dF has no gradient."""
        dtype = self.x_embedder.weight.dtype  # bfloat16 where parameters are cast; the embeddings stay in float32
        h = self._tokens(x.to(dtype), self.x_embedder.bias) + self.pos_embed.to(dtype)
        if tangents is None:
            c = self.condition(t, s, y).to(dtype)
            for block in self.blocks:
                h = block(h, c, self.rope)
            return self._unpatchify(self.final_layer(h, c)).to(x.dtype)
        dx, dt, ds = tangents
        c, dc = (part.to(dtype) for part in self.condition_with_tangent(t, s, y, dt, ds))
        with torch.no_grad():
            dh = self._tokens(dx.to(dtype), None)
        for block in self.blocks:
            h, dh = block(h, c, self.rope, (dh, dc))
        h, dh = self.final_layer.with_tangent(h, dh, c, dc)
        return self._unpatchify(h).to(x.dtype), self._unpatchify(dh).to(x.dtype)

    def _tokens(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Images [B, C, H, W] -> tokens [B, N, width]."""
        return nn.functional.conv2d(x, self.x_embedder.weight, bias, self.patch_size).flatten(2).transpose(1, 2)

    def _unpatchify(self, tokens: Tensor) -> Tensor:
        """Tokens [B, h w, p q c] -> images [B, c, h p, w q]."""
        (C, H, W), p = self.shape, self.patch_size
        return torch.einsum("bhwpqc->bchpwq", tokens.unflatten(2, (p, p, C)).unflatten(1, (H // p, W // p))).reshape(
            -1, C, H, W
        )
