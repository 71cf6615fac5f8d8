"""What a device does while steps run: how much of the time it works, its longest gaps, the kernels that take most."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from speed.cases import Case
from speed.work import Work

STEPS, SHOWN = 50, 5


@dataclass(frozen=True)
class Span:
    """A kernel's time on the device, in nanoseconds."""

    name: str
    start: int
    end: int


def summary(spans: Iterable[Span], shown: int = SHOWN) -> dict[str, Any]:
    """{busy: share of the time from the first start to the last end, gaps, kernels} of a device's spans.

    Gaps are {ms, after, before} between the spans around them, the longest first; kernels {name, ms, share} by the sum
    of their times, with `share` of the time that the device works. Kernels at the same time count once as busy.
    """
    ordered = sorted(spans, key=lambda span: span.start)
    if not ordered:
        return {"busy": 0.0, "gaps": [], "kernels": []}
    last, busy, gaps, times = ordered[0], 0, list[dict[str, Any]](), defaultdict[str, int](int)
    begun = last.start
    for span in ordered:
        if span.start > last.end:
            busy += last.end - begun
            gaps.append({"ms": (span.start - last.end) / 1e6, "after": last.name, "before": span.name})
            begun = span.start
        if span.end >= last.end:
            last = span
        times[span.name] += span.end - span.start
    busy += last.end - begun
    most = sorted(times.items(), key=lambda item: -item[1])[:shown]
    return {
        "busy": busy / (last.end - ordered[0].start),
        "gaps": sorted(gaps, key=lambda gap: -gap["ms"])[:shown],
        "kernels": [{"name": name, "ms": ns / 1e6, "share": ns / busy} for name, ns in most],
    }


def spans_of(profiler: Any, device: str) -> list[Span]:
    """What ran on the device; on the CPU its outermost operators."""
    events = profiler.profiler.kineto_results.events()
    if device == "cuda":
        return [
            Span(e.name(), e.start_ns(), e.end_ns()) for e in events if e.device_type() == DeviceType.CUDA and e.name()
        ]
    found, until = list[Span](), 0
    for e in sorted(events, key=lambda e: (e.start_ns(), -e.end_ns())):
        if e.device_type() == DeviceType.CPU and e.start_ns() >= until and e.name().startswith("aten::"):
            found.append(Span(e.name(), e.start_ns(), e.end_ns()))
            until = e.end_ns()
    return found


def profiled(case: Case, device: str, steps: int = STEPS) -> dict[str, Any]:
    """The summary of `steps` whole steps, after one N2N cycle that compiles."""
    work = Work(case, device)
    for k in work.steps:
        work.step(k)
    if device == "cuda":
        torch.cuda.synchronize()
    kinds = [ProfilerActivity.CUDA] if device == "cuda" else [ProfilerActivity.CPU]
    with profile(activities=[ProfilerActivity.CPU, *kinds] if device == "cuda" else kinds) as profiler:
        for k in range(steps):
            work.step(k)
        if device == "cuda":
            torch.cuda.synchronize()
    return {"steps": steps, **summary(spans_of(profiler, device))}
