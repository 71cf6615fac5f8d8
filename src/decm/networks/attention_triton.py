"""The operator of networks/attention.py as one Triton kernel: one pass over the keys, nothing of size N x N in memory.

The online softmax (arXiv:2205.14135 Sec. 3.1) keeps for each query the largest score m so far and, relative to exp(m),
sum p and sum p v; the tangent adds sum h and sum (h v + p dv), rescaled by the same factor whenever m grows. In the end
o = sum p v / sum p and do = sum (h v + p dv) / sum p - (sum h / sum p) o.

A head dimension that is no power of two is split in two parts, the second one padded with zeros: 72 = 64 + 8 of 16.
"""

import os
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = 1.4426950408889634
SMALLEST = 16  # the smallest side of a product on tensor cores


class Tile(NamedTuple):
    """What one program works on: `rows` queries to `keys` keys at a time."""

    rows: int
    keys: int
    warps: int
    stages: int


# Best first; the first one that fits the card is taken. Compiled for three generations, not measured on a GPU yet.
TILES = (Tile(128, 64, 8, 2), Tile(128, 32, 8, 2), Tile(64, 32, 4, 2), Tile(32, 32, 4, 1), Tile(16, 16, 4, 1))
REGISTERS = 180  # of 255 a thread, for accumulators and scores: with more, the compiler spills some


def parts(head_dim: int) -> tuple[int, int]:
    """(largest power of two <= head_dim, next power of two of the rest), both at least 16, or 0 for no rest."""
    first = max(SMALLEST, 1 << (head_dim.bit_length() - 1))
    rest = head_dim - first
    return first, 0 if rest <= 0 else max(SMALLEST, triton.next_power_of_2(rest))


def fits(tile: Tile, head_dim: int, element_size: int, shared: int) -> bool:
    """Whether q, dq and the staged k, dk, v, dv fit the shared memory, two accumulators and scores the registers."""
    width = sum(parts(head_dim))
    memory = (2 * tile.rows + 4 * tile.stages * tile.keys) * width * element_size
    registers = (2 * tile.rows * width + 3 * tile.rows * tile.keys) // (32 * tile.warps)
    return memory <= shared and registers <= REGISTERS


def takes(dtype: torch.dtype) -> bool:
    """Half precision, and float32 where PyTorch's products may use TF32.

    Exact float32 products are none of the tensor cores', and the compiler spills 12 KB of registers a thread for them.
    """
    return dtype.itemsize == 2 or (dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest")


def tile_for(q: Tensor) -> Tile | None:
    """The first tile that fits the card of q [B, heads, N, head_dim]; None: no tile, or no kernel for q's type."""
    if not takes(q.dtype):
        return None
    shared = torch.cuda.get_device_properties(q.device).shared_memory_per_block_optin
    return next((tile for tile in TILES if fits(tile, q.shape[3], q.element_size(), shared)), None)


def _precision(dtype: torch.dtype) -> str:
    """How products are computed; float32 ones in TF32 (`takes` says when)."""
    if dtype == torch.float32:
        return "tf32"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return "widened" if interpreted and dtype == torch.bfloat16 else "ieee"


def launch(inputs: tuple[Tensor, ...], tile: Tile) -> tuple[Tensor, Tensor]:
    """(o, do) of q, k, v, dq, dk, dv, each [B, heads, N, head_dim]; contiguous, of the inputs' type."""
    q = inputs[0]
    assert {(part.shape, part.dtype) for part in inputs} == {(q.shape, q.dtype)}, [part.shape for part in inputs]
    B, heads, N, D = q.shape
    o, do = q.new_empty(q.shape), q.new_empty(q.shape)
    first, second = parts(D)
    with torch.cuda.device_of(q):
        _kernel[(B * heads * triton.cdiv(N, tile.rows),)](
            *(part.contiguous() for part in inputs),
            o,
            do,
            N,
            D**-0.5 * LOG2_E,
            D**-0.5,
            D,
            first,
            second,
            tile.rows,
            tile.keys,
            _precision(q.dtype),
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    return o, do


@triton.jit
def _load(base, rows, N, D: tl.constexpr, first: tl.constexpr, width: tl.constexpr):  # type: ignore[no-untyped-def]
    """Columns first to first + width of some rows of an [N, D] matrix; zero outside of it."""
    columns = first + tl.arange(0, width)
    inside = (rows < N)[:, None] & (columns < D)[None, :]
    return tl.load(base + rows[:, None] * D + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _store(base, rows, N, value, D: tl.constexpr, first: tl.constexpr, width: tl.constexpr):  # type: ignore[no-untyped-def]
    """The counterpart of `_load`."""
    columns = first + tl.arange(0, width)
    inside = (rows < N)[:, None] & (columns < D)[None, :]
    tl.store(base + rows[:, None] * D + columns[None, :], value.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _dot(a, b, c, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """a b + c in float32. `widened` is for the interpreter, which multiplies the bits of bfloat16 as integers."""
    if PRECISION == "widened":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), c, input_precision="ieee")
    else:
        return tl.dot(a, b, c, input_precision=PRECISION)


@triton.jit
def _scores(s, t, q, dq, k, dk, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """s + q k^T, t + dq k^T + q dk^T: one part of the head dimension's share."""
    s = _dot(q, tl.trans(k), s, PRECISION)
    t = _dot(dq, tl.trans(k), t, PRECISION)
    return s, _dot(q, tl.trans(dk), t, PRECISION)


@triton.jit
def _values(o, do, p, h, v, dv, shrink, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    """P v and H v + P dv with some more keys, relative to the new largest score."""
    o = _dot(p, v, o * shrink[:, None], PRECISION)
    do = _dot(h, v, do * shrink[:, None], PRECISION)
    return o, _dot(p, dv, do, PRECISION)


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]
    q,
    k,
    v,
    dq,
    dk,
    dv,
    o,
    do,
    N,
    scale2,
    scale,
    D: tl.constexpr,
    D1: tl.constexpr,
    D2: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """ROWS queries of one head; scale2 is for exponents of two. D1, D2: `parts` of the head dimension D."""
    blocks = tl.cdiv(N, ROWS)
    head = (tl.program_id(0) // blocks).to(tl.int64) * N * D
    rows = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)
    q1, dq1 = _load(q + head, rows, N, D, 0, D1), _load(dq + head, rows, N, D, 0, D1)
    o1, do1 = tl.zeros([ROWS, D1], tl.float32), tl.zeros([ROWS, D1], tl.float32)
    if D2 > 0:
        q2, dq2 = _load(q + head, rows, N, D, D1, D2), _load(dq + head, rows, N, D, D1, D2)
        o2, do2 = tl.zeros([ROWS, D2], tl.float32), tl.zeros([ROWS, D2], tl.float32)
    m = tl.full([ROWS], float("-inf"), tl.float32)
    sum_p, sum_h = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    for start in range(0, N, KEYS):
        keys = start + tl.arange(0, KEYS)
        s, t = tl.zeros([ROWS, KEYS], tl.float32), tl.zeros([ROWS, KEYS], tl.float32)
        s, t = _scores(
            s, t, q1, dq1, _load(k + head, keys, N, D, 0, D1), _load(dk + head, keys, N, D, 0, D1), PRECISION
        )
        if D2 > 0:
            k2, dk2 = _load(k + head, keys, N, D, D1, D2), _load(dk + head, keys, N, D, D1, D2)
            s, t = _scores(s, t, q2, dq2, k2, dk2, PRECISION)
        s = tl.where((keys < N)[None, :], s * scale2, float("-inf"))
        largest = tl.maximum(m, tl.max(s, 1))
        shrink, p = tl.exp2(m - largest), tl.exp2(s - largest[:, None])
        # Sums of what is multiplied, rounding included: a constant in v then adds nothing to do.
        h = (p * (t * scale)).to(v.dtype.element_ty)
        p = p.to(v.dtype.element_ty)
        sum_p = sum_p * shrink + tl.sum(p.to(tl.float32), 1)
        sum_h = sum_h * shrink + tl.sum(h.to(tl.float32), 1)
        v1, dv1 = _load(v + head, keys, N, D, 0, D1), _load(dv + head, keys, N, D, 0, D1)
        o1, do1 = _values(o1, do1, p, h, v1, dv1, shrink, PRECISION)
        if D2 > 0:
            v2, dv2 = _load(v + head, keys, N, D, D1, D2), _load(dv + head, keys, N, D, D1, D2)
            o2, do2 = _values(o2, do2, p, h, v2, dv2, shrink, PRECISION)
        m = largest
    total, rowsum = sum_p[:, None], (sum_h / sum_p)[:, None]
    _store(o + head, rows, N, o1 / total, D, 0, D1)
    _store(do + head, rows, N, (do1 - rowsum * o1) / total, D, 0, D1)
    if D2 > 0:
        _store(o + head, rows, N, o2 / total, D, D1, D2)
        _store(do + head, rows, N, (do2 - rowsum * o2) / total, D, D1, D2)
