"""Attention under a tangent: the operator against the formula with whole N x N matrices. Time and memory, no gradient.

    python benchmarks/attention.py --threads 1 --json attention.json

Each figure on a CPU comes from a process of its own; its memory is the high-water mark over what was resident before.
On a GPU the operator is the Triton kernel from 1,024 tokens on, batched products below.
"""

import argparse
import itertools
import json
import multiprocessing
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decm.networks.attention import attention_dual

HEAD_DIM = 72  # LightningDiT-XL's
Shape = tuple[int, int, int]  # batch, heads, tokens
SHAPES: dict[str, list[Shape]] = {
    "cpu": [(4, 2, 256), (1, 2, 1024), (1, 2, 4096)],
    "cuda": [(32, 16, 256), (16, 16, 1024), (4, 16, 4096)],
}


def naive(q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor, Tensor]:
    """The formula of networks/attention.py, every matrix whole."""
    scale = q.shape[-1] ** -0.5
    P = torch.softmax(scale * (q @ k.mT), dim=-1)
    H = P * (dq @ k.mT + q @ dk.mT) * scale
    o = P @ v
    return o, H @ v + P @ dv - H.sum(-1, keepdim=True) * o


WAYS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {"naive": naive, "operator": attention_dual}


def inputs(shape: Shape, device: str, dtype: torch.dtype) -> list[Tensor]:
    """q, k, v, dq, dk, dv [batch, heads, tokens, head_dim], of which v and dv are views as in networks/layers.py."""
    batch, heads, tokens = shape
    generator = torch.Generator(device).manual_seed(0)
    qkv = torch.randn(2, batch, tokens, 3, heads, HEAD_DIM, generator=generator, device=device, dtype=dtype)
    (q, k, v), (dq, dk, dv) = qkv.permute(0, 3, 1, 4, 2, 5)
    return [q.contiguous(), k.contiguous(), v, dq.contiguous(), dk.contiguous(), dv]


def kibibytes(field: str) -> int:
    """This process's memory now (VmRSS) or at most so far (VmHWM)."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(
            int(line.split()[1]) for line in status.read_text(encoding="utf-8").splitlines() if line.startswith(field)
        )
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # elsewhere no better is to be had than the mark
    return most // 1024 if platform.system() == "Darwin" else most


def on_cpu(way: str, shape: Shape, repeats: int, threads: int) -> dict[str, float]:
    """The median of milliseconds a call, and the megabytes that the calls added."""
    torch.set_num_threads(threads)
    parts, milliseconds = inputs(shape, "cpu", torch.float32), []
    with torch.no_grad():
        WAYS[way](*(part[:, :, :4] for part in parts))  # libraries load
        before = kibibytes("VmRSS")
        while len(milliseconds) <= repeats or sum(milliseconds) < 1e3:
            began = time.perf_counter()
            WAYS[way](*parts)
            milliseconds.append(1e3 * (time.perf_counter() - began))
    return {"ms": statistics.median(milliseconds[1:]), "MB": (kibibytes("VmHWM") - before) * 1024 / 1e6}


def on_gpu(way: str, shape: Shape, repeats: int, _: int) -> dict[str, float]:
    """The same by the GPU's own clock and allocator, in bfloat16."""
    parts = inputs(shape, "cuda", torch.bfloat16)
    with torch.no_grad():
        WAYS[way](*parts)  # compiles
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
        marks[0].record()
        for mark in marks[1:]:
            WAYS[way](*parts)
            mark.record()
        torch.cuda.synchronize()
    taken = [began.elapsed_time(ended) for began, ended in itertools.pairwise(marks)]
    return {"ms": statistics.median(taken), "MB": (torch.cuda.max_memory_allocated() - before) / 1e6}


def alone(measure: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """What `measure` gives in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments)


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| batch x heads x tokens | naive, ms | operator, ms | naive, MB | operator, MB |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        cells = [f"{row[way][unit]:,.1f}" for unit in ("ms", "MB") for way in WAYS]
        lines.append(f"| {' x '.join(map(str, row['shape']))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=list(SHAPES), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    on_a_gpu = options.device == "cuda"
    machine = (
        f"{torch.cuda.get_device_name()}, bfloat16"
        if on_a_gpu
        else f"{platform.machine()} CPU, threads: {options.threads}, float32"
    )
    rows = []
    for shape in SHAPES[options.device]:
        measure = on_gpu if on_a_gpu else on_cpu
        figures = {way: alone(measure, way, shape, options.repeats, options.threads) for way in WAYS}
        rows.append({"shape": shape, **figures})
    print(f"{machine}, head dimension {HEAD_DIM}, PyTorch {torch.__version__}, median of {options.repeats} or more\n")
    print(table(rows))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(
            json.dumps({"machine": machine, "head_dim": HEAD_DIM, "rows": rows}, indent=2) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
