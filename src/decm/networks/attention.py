"""Attention under a forward-mode tangent, as an opaque operator: of value and tangent, or of the tangent alone.

    P = softmax(q k^T scale)    H = P * (dq k^T + q dk^T) scale    scale = head_dim^(-1/2)
    o = P v                     do = H v + P dv - rowsum(H) o

Opaque, so that a compiled region neither looks into it nor breaks at it; and without a derivative of its own, since a
tangent is never part of the gradient's graph (networks/tangent_rules.py). Neither P nor H is ever held whole: memory is
linear in the number of tokens.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

CPU_CHUNK = 2**18  # scores a thread at a time, 1 MB of float32; a quarter is 1.2 x slower at 4,096 tokens (1 core)
CUDA_CHUNK = 2**26  # not measured on a GPU yet
KERNEL_TOKENS = 1024  # on CUDA fewer tokens go through batched products; not measured on a GPU yet
KERNEL, PRODUCTS = "kernel", "products"
WINNERS: dict[tuple[int, int], str] = {}  # by (tokens, head_dim), as `make bench-gpu` found; empty: not measured yet


@torch.library.custom_op("decm::attention_dual", mutates_args=())
def attention_dual(q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor]:
    """(o, do), contiguous and of the inputs' type and shape [B, heads, N, head_dim].

    Half precision is computed in float32, but by CUDA's batched products in its own type. Has no gradient: a backward
    pass through it raises RuntimeError.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    return _in_chunks((q, k, v, dq, dk, dv), wide, CPU_CHUNK * torch.get_num_threads())


@torch.library.custom_op("decm::attention_tangent", mutates_args=())
def attention_tangent(q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, o: Tensor) -> Tensor:
    """do where o is known already, as of an attention with a gradient; otherwise as `attention_dual`."""
    wide = torch.promote_types(q.dtype, torch.float32)
    return _in_chunks((q, k, v, dq, dk, dv), wide, CPU_CHUNK * torch.get_num_threads(), o)[1]


@attention_tangent.register_fake
def _shape(q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, o: Tensor) -> Tensor:
    return q.new_empty(q.shape)


@attention_tangent.register_kernel("cuda")
def _cuda_tangent(q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, o: Tensor) -> Tensor:
    tile = _tile(q)
    inputs = (q, k, v, dq, dk, dv)
    return _launch(inputs, tile)[1] if tile else _in_chunks(inputs, q.dtype, CUDA_CHUNK, o)[1]


@attention_dual.register_fake
def _shapes(q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape)


@attention_dual.register_kernel("cuda")
def _cuda(q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor]:
    """The Triton kernel; for shapes where it is slower, or that it does not take, products of the inputs' type."""
    tile = _tile(q)
    inputs = (q, k, v, dq, dk, dv)
    return _launch(inputs, tile) if tile else _in_chunks(inputs, q.dtype, CUDA_CHUNK)


def _tile(q: Tensor) -> Any:
    """The kernel's tile for q, or None where products are to be taken: where they won, and where it has none."""
    tokens, head_dim = q.shape[2:]
    if WINNERS.get((tokens, head_dim), KERNEL if tokens >= KERNEL_TOKENS else PRODUCTS) == PRODUCTS:
        return None
    from decm.networks import attention_triton

    return attention_triton.tile_for(q)


def _launch(inputs: tuple[Tensor, ...], tile: Any) -> tuple[Tensor, Tensor]:
    from decm.networks import attention_triton

    return attention_triton.launch(inputs, tile)


@register_flop_formula(torch.ops.decm.attention_dual)
def _flops(q: torch.Size, *others: torch.Size, **options: object) -> int:
    """Six products of N x N x head_dim: q k^T, dq k^T, q dk^T, P v, H v, P dv."""
    B, heads, N, head_dim = q
    return 6 * 2 * B * heads * N * N * head_dim


@register_flop_formula(torch.ops.decm.attention_tangent)
def _flops_of_tangent(q: torch.Size, *others: torch.Size, **options: object) -> int:
    """Five: not P v. The Triton kernel, for many tokens, takes it all the same."""
    B, heads, N, head_dim = q
    return 5 * 2 * B * heads * N * N * head_dim


def _in_chunks(
    inputs: tuple[Tensor, ...], dtype: torch.dtype, chunk: int, known: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(o, do) by products of type `dtype`, for as many heads, or queries of one head, as have `chunk` scores.

    A `known` o [B, heads, N, head_dim] is not computed again.
    """
    shape = inputs[0].shape
    assert {part.shape for part in inputs} == {shape}, [part.shape for part in inputs]
    N, D = shape[2:]
    heads, queries = max(1, chunk // (N * max(N, D))), max(1, min(N, chunk // N))
    flat = [part.reshape(-1, N, D) for part in inputs]
    given = known.reshape(-1, N, D) if known is not None else None
    # The inputs say the precision; an autocast around the operator does not.
    with torch.autocast(inputs[0].device.type, enabled=False):
        if len(flat[0]) <= heads and queries == N:  # a single chunk needs no copy
            q, k, v, dq, dk, dv = (part.to(dtype) for part in flat)
            o, do = _attend(q, k, v, dq, dk, dv, None if given is None else given.to(dtype))
            return o.to(inputs[0].dtype).view(shape), do.to(inputs[0].dtype).view(shape)
        o, do = torch.empty_like(flat[0]), torch.empty_like(flat[0])
        for first in range(0, len(o), heads):
            some = slice(first, first + heads)
            q, k, v, dq, dk, dv = (part[some].to(dtype) for part in flat)
            for row in range(0, N, queries):
                rows = slice(row, row + queries)
                at = None if given is None else given[some, rows].to(dtype)
                o[some, rows], do[some, rows] = _attend(q[:, rows], k, v, dq[:, rows], dk, dv, at)
    return o.view(shape), do.view(shape)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, known: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The module's formula: queries [heads, n, D] to keys [heads, N, D], with all n N scores at once."""
    scale = q.shape[-1] ** -0.5
    P = torch.softmax((q @ k.mT).mul_(scale), dim=-1)
    H = (dq @ k.mT).baddbmm_(q, dk.mT).mul_(P)  # without the scale, which the products below have at no cost
    o = P @ v if known is None else known
    return o, (P @ dv).baddbmm_(H, v, alpha=scale).addcmul_(H.sum(-1, keepdim=True), o, value=-scale)
