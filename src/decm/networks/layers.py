"""The layers that timm does not have: time and end embedding, attention with QK-norm and RoPE, adaLN block.

Each has a `with_tangent`, which carries a tangent beside the value (networks/tangent_rules.py). What is sharded on its
own (the block and the two embeddings) takes the tangents as arguments of its call, so that hooks see them pass.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as nnf
from timm.layers import RmsNorm, SwiGLUPacked, apply_rot_embed_cat
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from decm.networks import tangent_rules
from decm.networks.tangent_rules import WithTangent

EPS = 1e-6  # LightningDiT's, for every RMSNorm
FEATURES = 256  # of a time
END_EMBEDDINGS = ("raw", "difference")
GRAPHS = 64  # that may be compiled of one core


@cache
def compiled(core: Callable[..., Any]) -> Callable[..., Any]:
    """A block's core as one compiled graph, shared by all blocks: their parameters are its inputs.

    There is a graph for each precision, with and without gradient, for student and teacher: more than the 8 that
    PyTorch allows by default.
    """
    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    return torch.compile(core, fullgraph=True)


def time_angle(t: Tensor, scale: float = 1.0) -> Tensor:
    """[B] -> [B, 128]: scale * t at frequencies 10000^(-i/128); float32 or wider."""
    half = FEATURES // 2
    wide = torch.promote_types(t.dtype, torch.float32)
    frequencies = 10_000.0 ** (-torch.arange(half, device=t.device, dtype=wide) / half)
    return scale * t.to(wide)[:, None] * frequencies


def time_features(t: Tensor, scale: float = 1.0) -> Tensor:
    """[B] -> [B, 256]: the 128 cosines, then the 128 sines."""
    angle = time_angle(t, scale)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def linear(inputs: int, outputs: int, init: str) -> nn.Linear:
    """A linear layer with zero bias; `init` of its weight: normal (0.02), xavier or zero, LightningDiT's choices."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.bias)
    if init == "normal":
        nn.init.normal_(layer.weight, std=0.02)
    elif init == "xavier":
        nn.init.xavier_uniform_(layer.weight)
    else:
        nn.init.zeros_(layer.weight)
    return layer


class _Embedding(nn.Module):
    """MLP(features(t)): linear, SiLU, linear; [B] -> [B, width]."""

    def __init__(self, width: int, scale: float = 1.0, zero: bool = False) -> None:
        super().__init__()
        self.scale = scale
        last = linear(width, width, "zero" if zero else "normal")
        self.mlp = nn.Sequential(linear(FEATURES, width, "normal"), nn.SiLU(), last)

    def embed(self, t: Tensor) -> Tensor:
        with torch.autocast(t.device.type, enabled=False):  # times need more digits than bfloat16 has
            return self.mlp(time_features(t, self.scale).to(next(self.mlp.parameters()).dtype))

    def embed_with_tangent(self, t: Tensor, dt: Tensor) -> WithTangent:
        with torch.autocast(t.device.type, enabled=False):
            return self._embed_with_tangent(t, dt)

    def _embed_with_tangent(self, t: Tensor, dt: Tensor) -> WithTangent:
        angle, dangle = time_angle(t, self.scale), time_angle(dt, self.scale)
        cos, sin = angle.cos(), angle.sin()
        features, dfeatures = torch.cat([cos, sin], dim=1), torch.cat([-sin * dangle, cos * dangle], dim=1)
        dtype = next(self.mlp.parameters()).dtype
        return tangent_rules.sequential(self.mlp, features.to(dtype), dfeatures.to(dtype))


class TimeEmbedding(_Embedding):
    """What the network knows of a segment's start t."""

    def forward(self, t: Tensor, dt: Tensor | None = None) -> Tensor | WithTangent:
        return self.embed(t) if dt is None else self.embed_with_tangent(t, dt)


class EndEmbedding(_Embedding):
    """What the network knows of a segment's end; zero at the start of training, so that F(x, t, s) = v(x, t).

    `raw` is MLP(features(s)), as in the published networks; `difference` is MLP(features(s - t)) - MLP(features(0)),
    exactly zero at s = t for ever, so that training the boundary alone leaves the other ends as they are.
    """

    def __init__(self, width: int, kind: str, scale: float = 1.0) -> None:
        if kind not in END_EMBEDDINGS:
            raise ValueError(f"end_embedding={kind!r} is unknown. Choose one of {', '.join(END_EMBEDDINGS)}.")
        super().__init__(width, scale, zero=True)
        self.kind = kind

    def forward(self, t: Tensor, s: Tensor, tangents: WithTangent | None = None) -> Tensor | WithTangent:
        """Of the end s of segments from t; with `tangents` (dt, ds) the value and its tangent."""
        if tangents is None:
            return self.embed(s) if self.kind == "raw" else self.embed(s - t) - self.embed(torch.zeros_like(t))
        dt, ds = tangents
        if self.kind == "raw":
            return self.embed_with_tangent(s, ds)
        embedded, dembedded = self.embed_with_tangent(s - t, ds - dt)
        return embedded - self.embed(torch.zeros_like(t)), dembedded


class Conditioned(nn.Module):
    """A network with the condition c = emb_t(t) + emb_s(s) + emb_y(y); `num_classes` is the null label.

    The end embedding's last layer starts at zero, so that a student initialized from a teacher begins as
    F(x, t, s) = v(x, t). With `two_times=False` (a teacher) s is ignored.
    """

    supports_tangents = True

    def condition_on(
        self, width: int, num_classes: int, two_times: bool, end_embedding: str, time_scale: float
    ) -> None:
        """Make the embeddings, [B] -> [B, width]."""
        self.num_classes, self.two_times = num_classes, two_times
        self.t_embedder = TimeEmbedding(width, time_scale)
        self.s_embedder = EndEmbedding(width, end_embedding, time_scale) if two_times else None
        self.y_embedder = nn.Embedding(num_classes + 1, width)
        nn.init.normal_(self.y_embedder.weight, std=0.02)

    def condition(self, t: Tensor, s: Tensor, y: Tensor) -> Tensor:
        """c [B, width]."""
        c = self.t_embedder(t) + self.y_embedder(y)
        return c if self.s_embedder is None else c + self.s_embedder(t, s)

    def condition_with_tangent(self, t: Tensor, s: Tensor, y: Tensor, dt: Tensor, ds: Tensor) -> WithTangent:
        """c and its tangent along (dt, ds)."""
        c, dc = self.t_embedder(t, dt)
        c = c + self.y_embedder(y)
        if self.s_embedder is None:
            return c, dc
        end, dend = self.s_embedder(t, s, (dt, ds))
        return c + end, dc + dend


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift, with [B, width] broadcast over the tokens of [B, N, width]."""
    return x * (1 + scale[:, None]) + shift[:, None]


class Attention(nn.Module):
    """Multi-head self-attention with 2-D RoPE and, where `qk_norm`, RMSNorm of queries and keys before it."""

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = linear(width, 3 * width, "xavier")
        self.proj = linear(width, width, "xavier")
        self.q_norm = RmsNorm(width // heads, eps=EPS) if qk_norm else nn.Identity()
        self.k_norm = RmsNorm(width // heads, eps=EPS) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        B, N, width = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # each [B, heads, N, head_dim]
        q = apply_rot_embed_cat(self.q_norm(q), rope).to(v.dtype)
        k = apply_rot_embed_cat(self.k_norm(k), rope).to(v.dtype)
        out = nnf.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(B, N, width))

    def with_tangent(self, x: Tensor, dx: Tensor, rope: Tensor) -> WithTangent:
        B, N, width = x.shape
        qkv, dqkv = tangent_rules.linear(self.qkv, x, dx)
        q, k, v = qkv.reshape(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        dq, dk, dv = dqkv.reshape(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, dq = tangent_rules.rms_norm(self.q_norm, q, dq)
        k, dk = tangent_rules.rms_norm(self.k_norm, k, dk)
        q, dq, k, dk = (apply_rot_embed_cat(part, rope).to(v.dtype) for part in (q, dq, k, dk))
        out, dout = tangent_rules.attention((q, dq), (k, dk), (v, dv))
        out, dout = (part.transpose(1, 2).reshape(B, N, width) for part in (out, dout))
        return tangent_rules.linear(self.proj, out, dout)


class Block(nn.Module):
    """LightningDiT's block: attention and SwiGLU, each after RMSNorm and adaLN (shift, scale), each gated.

    It is a region: where `compiled`, its two cores `plain` and `with_tangent` are graphs without breaks, and hooks stay
    outside of them; where `checkpointed`, it keeps nothing but its inputs for the backward pass and computes the rest
    again.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, qk_norm: bool) -> None:
        super().__init__()
        hidden = int(2 / 3 * mlp_ratio * width)
        self.norm1 = RmsNorm(width, eps=EPS)
        self.attn = Attention(width, heads, qk_norm)
        self.norm2 = RmsNorm(width, eps=EPS)
        self.mlp = SwiGLUPacked(width, hidden_features=2 * hidden)
        self.mlp.fc1 = linear(width, 2 * hidden, "xavier")
        self.mlp.fc2 = linear(hidden, width, "xavier")
        self.adaln = nn.Sequential(nn.SiLU(), linear(width, 6 * width, "zero"))
        self.compiled, self.checkpointed = False, False

    def forward(self, x: Tensor, c: Tensor, rope: Tensor, tangents: WithTangent | None = None) -> Tensor | WithTangent:
        """Tokens [B, N, width] under the condition c [B, width]; with `tangents` (dx, dc) they and their tangent."""
        if self.compiled:
            for rows in (x, c, *(tangents or ())):
                torch._dynamo.maybe_mark_dynamic(rows, 0)  # so that a graph serves any number of rows
        if tangents is not None:
            return self._core(Block.with_tangent)(self, x, c, rope, *tangents)
        plain = self._core(Block.plain)
        if self.checkpointed and torch.is_grad_enabled():
            return checkpoint(plain, self, x, c, rope, use_reentrant=False)
        return plain(self, x, c, rope)

    def _core(self, core: Callable[..., Any]) -> Callable[..., Any]:
        return compiled(core) if self.compiled else core

    def plain(self, x: Tensor, c: Tensor, rope: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaln(c).chunk(6, dim=1)
        x = x + gate_a[:, None] * self.attn(modulate(self.norm1(x), shift_a, scale_a), rope)
        return x + gate_m[:, None] * self.mlp(modulate(self.norm2(x), shift_m, scale_m))

    def with_tangent(self, x: Tensor, c: Tensor, rope: Tensor, dx: Tensor, dc: Tensor) -> WithTangent:
        m, dm = tangent_rules.sequential(self.adaln, c, dc)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = zip(m.chunk(6, dim=1), dm.chunk(6, dim=1), strict=True)
        h = tangent_rules.modulate(*tangent_rules.rms_norm(self.norm1, x, dx), shift_a, scale_a)
        x, dx = tangent_rules.gated_sum((x, dx), gate_a, self.attn.with_tangent(*h, rope))
        h = tangent_rules.modulate(*tangent_rules.rms_norm(self.norm2, x, dx), shift_m, scale_m)
        return tangent_rules.gated_sum((x, dx), gate_m, tangent_rules.swiglu(self.mlp, *h))


class FinalLayer(nn.Module):
    """RMSNorm, adaLN (shift, scale), linear to a patch; zero at the start."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm = RmsNorm(width, eps=EPS)
        self.linear = linear(width, out, "zero")
        self.adaln = nn.Sequential(nn.SiLU(), linear(width, 2 * width, "zero"))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaln(c).chunk(2, dim=1)
        return self.linear(modulate(self.norm(x), shift, scale))

    def with_tangent(self, x: Tensor, dx: Tensor, c: Tensor, dc: Tensor) -> WithTangent:
        m, dm = tangent_rules.sequential(self.adaln, c, dc)
        shift, scale = zip(m.chunk(2, dim=1), dm.chunk(2, dim=1), strict=True)
        h = tangent_rules.modulate(*tangent_rules.rms_norm(self.norm, x, dx), shift, scale)
        return tangent_rules.linear(self.linear, *h)
