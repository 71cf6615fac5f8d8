"""What a table of times does not say: recompilations, the error in bf16, attention alone, the largest batch."""

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from decm.networks import tangent_rules
from decm.networks.attention import KERNEL, PRODUCTS, WINNERS
from decm.networks.tangent_rules import WithTangent
from speed.cases import Case
from speed.timing import once
from speed.work import CYCLE, Work

HEADS, HEAD_DIM = 16, 72  # XL's attention; 72 is no power of two
TOKENS = {"cpu": (256, 1024), "cuda": (256, 1024, 4096)}


def recompilations(case: Case, device: str) -> int:
    """Graphs compiled after the first N2N cycle, during two more."""
    work = Work(replace(case, what="step", compiled=True, batch=2), device)
    for k in work.steps:
        work.step(k)
    before = counters["stats"]["unique_graphs"]
    for k in range(CYCLE, 3 * CYCLE):
        work.step(k)
    return counters["stats"]["unique_graphs"] - before


def bf16_error(case: Case, device: str) -> dict[str, float]:
    """Relative errors of F and dF under autocast to bf16, against float32."""
    work = Work(replace(case, what="branch", compiled=False, batch=4), device)
    module, x, y = work.module, work.x[0].to(work.device), work.y[0].to(work.device)
    t, found = torch.linspace(0.1, 0.9, 4, device=device), {}
    tangents = (x.flip(0), torch.ones_like(t), torch.zeros_like(t))
    for half in (False, True):
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=half):
            found[half] = module.student_map.with_derivative(x, t, torch.ones_like(t), y, tangents)
    pairs = zip(("F", "dF"), found[True], found[False], strict=True)
    return {name: float((value - truth).norm() / truth.norm()) for name, value, truth in pairs}


def naive_attention(q: WithTangent, k: WithTangent, v: WithTangent) -> tuple[Tensor, Tensor]:
    """o and do with P and H held whole."""
    scale = q[0].shape[-1] ** -0.5
    P = torch.softmax(scale * (q[0] @ k[0].mT), dim=-1)
    H = P * (q[1] @ k[0].mT + q[0] @ k[1].mT) * scale
    o = P @ v[0]
    return o, H @ v[0] + P @ v[1] - H.sum(-1, keepdim=True) * o


def attention_seconds(device: str) -> dict[int, dict[str, float]]:
    """Seconds of a sample's attention with its tangent, by number of tokens: ours, naive, and on CUDA both of our ways.

    What wins there belongs into `WINNERS` of networks/attention.py.
    """
    dtype, times = torch.bfloat16 if device == "cuda" else torch.float32, {}
    for N in TOKENS[device]:
        parts = torch.randn(6, 1, HEADS, N, HEAD_DIM, device=device, dtype=dtype)
        ways: dict[str, Callable[..., WithTangent]] = {
            "ours": tangent_rules.attention,
            "naive": naive_attention,
        }
        with torch.no_grad():
            times[N] = {name: seconds(partial(way, *parts.split(2)), device) for name, way in ways.items()}
        if device == "cuda":
            times[N] |= {way: as_it_won(way, parts) for way in (KERNEL, PRODUCTS)}
    return times


def as_it_won(way: str, parts: Tensor) -> float:
    """Seconds of fused attention with its tangent by the Triton kernel, or by batched products."""
    shape = (parts.shape[-2], parts.shape[-1])
    before = WINNERS.get(shape)
    WINNERS[shape] = way
    try:
        q, dq, k, dk, v, dv = parts.clone()
        return seconds(lambda: tangent_rules.attention((q.requires_grad_(), dq), (k, dk), (v, dv)), "cuda")
    finally:
        WINNERS.pop(shape)
        if before is not None:
            WINNERS[shape] = before


def seconds(run: Callable[[], object], device: str) -> float:
    """The fastest of five runs after one."""
    once(run, device)
    return min(once(run, device) for _ in range(5))


def largest_batch(case: Case, device: str = "cuda") -> int:
    """The largest multiple of 16 whose whole step fits the GPU: doubling, then halving the gap."""
    fits, fails = 0, 0
    while not fails or fails - fits > 16:
        batch = (fits + fails) // 2 // 16 * 16 if fails else max(16, 2 * fits)
        try:
            Work(replace(case, what="step", batch=batch), device).step(0)
            fits = batch
        except torch.OutOfMemoryError:
            fails = batch
        gc.collect()
        torch.cuda.empty_cache()
    return fits
