"""Floating-point operations counted as they run, and the dense peaks to compare a rate with."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from speed.cases import Case
from speed.work import Work, eager

ROWS = 8  # of which stratified times put 7 into the guided interval [0.125, 1]
DENSE_PEAK = {  # bfloat16 without sparsity, operations a second (NVIDIA's data sheets); the first name that fits
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "A10": 125e12,
}


def dense_peak(device: str) -> float | None:
    """The device's dense bfloat16 peak, if it is known."""
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    return next((peak for part, peak in DENSE_PEAK.items() if part in name), None)


def forward_operations(work: Work) -> float:
    """Operations of one plain forward of one sample."""
    x, t, y = (value.to(work.device) for value in (work.x[0, :1], torch.full((1,), 0.5), work.y[0, :1]))
    with FlopCounterMode(display=False) as counter, torch.no_grad(), work.autocast():
        work.module.student(x, t, t, y)
    return counter.get_total_flops()


def counted(case: Case, device: str) -> tuple[float, float]:
    """(operations a sample, forward-equivalents a sample), averaged over the N2N schedule and stratified times.

    Counted eagerly: a compiled graph does the same products under names that the counter does not know.
    """
    work = Work(eager(case, ROWS), device)
    with FlopCounterMode(display=False) as counter:
        for k in work.steps:
            work.step(k)
    operations = counter.get_total_flops() / len(work.steps) / ROWS
    return operations, operations / forward_operations(work)
