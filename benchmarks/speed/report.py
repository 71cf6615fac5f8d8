"""Measurements as Markdown, and the last line."""

import os
import platform
from typing import Any

import torch

MB = 1e6


def machine(device: str) -> str:
    """What it ran on."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    model = platform.processor() or platform.machine()
    return f"{os.cpu_count()} CPU cores ({model}), {torch.get_num_threads()} threads, torch {torch.__version__}"


def number(value: float | None, form: str = ".2f") -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def row(found: dict[str, Any]) -> str:
    """One variant's line."""
    cells = [
        found["variant"],
        number(found["seconds"] and 1e3 * found["seconds"], ",.0f"),
        number(found["time_ratio"]),
        number(found["samples_per_second"], ",.2f"),
        number(found["peak"] and found["peak"] / MB, ",.0f"),
        number(found["peak_ratio"]),
        number(found["forward_equivalents"]),
        number(found["utilization"] and 100 * found["utilization"], ".0f"),
        number(found["first_seconds"], ".1f"),
    ]
    return "| " + " | ".join(cells) + " |"


def group_table(group: list[dict[str, Any]]) -> str:
    """A heading and a table of variants that were timed in turns."""
    one = group[0]
    what = {"branch": "Consistency branch alone", "step": "Whole DE-CM step"}[one["what"]]
    columns = [
        "variant",
        "ms a step",
        "of joint",
        "samples/s",
        "peak MB",
        "of joint",
        "forwards a sample",
        "MFU %",
        "first step, s",
    ]
    title = f"{what}: {one['network']}, batch {one['batch']}, {one['precision']}"
    return "\n".join(
        [
            f"### {title}",
            "",
            "| " + " | ".join(columns) + " |",
            "| --- " + "| ---: " * (len(columns) - 1) + "|",
            *(row(found) for found in group),
            "",
        ]
    )


def other_tables(found: dict[str, Any]) -> str:
    """Sampling, the data path, attention, and single figures."""
    lines = ["### Sampling: latents a second", "", "| network steps | images/s |", "| ---: | ---: |"]
    lines += [f"| {nfe} | {rate:,.2f} |" for nfe, rate in found["images_per_second"].items()]
    lines += [f"| {nfe}, with VA-VAE's decoder | {rate:,.2f} |" for nfe, rate in found["decoded_per_second"].items()]
    lines += ["", "### Attention with its tangent: 16 heads of 72, ms a sample", ""]
    ways = list(next(iter(found["attention"].values())))
    lines += [f"| tokens | {' | '.join(ways)} |", f"| ---: {'| ---: ' * len(ways)}|"]
    for N, times in found["attention"].items():
        lines.append(f"| {N} | {' | '.join(f'{1e3 * times[way]:,.2f}' for way in ways)} |")
    lines += profile_tables(found["profile"])
    lines += ["", f"- data path, samples/s: {', '.join(f'{k} {v:,.0f}' for k, v in found['data_path'].items())}"]
    error = found["bf16_error"]
    lines.append(f"- relative error under autocast to bf16: F {error['F']:.4f}, dF {error['dF']:.4f}")
    lines.append(f"- graphs compiled after the first N2N cycle: {found['recompilations']}")
    lines += [f"- largest batch of the whole step, {name}: {size}" for name, size in found["largest_batch"].items()]
    return "\n".join([*lines, ""])


def profile_tables(found: dict[str, Any]) -> list[str]:
    """What the device did during some steps; nothing where none were looked at."""
    if not found:
        return []
    lines = ["", f"### {found['steps']} whole steps: the device works {found['busy']:.1%} of the time", ""]
    lines += ["| longest gap, ms | after | before |", "| ---: | --- | --- |"]
    lines += [f"| {gap['ms']:.3f} | `{gap['after'][:60]}` | `{gap['before'][:60]}` |" for gap in found["gaps"]]
    lines += ["", "| kernel | ms | of the working time |", "| --- | ---: | ---: |"]
    return [*lines, *(f"| `{one['name'][:60]}` | {one['ms']:,.1f} | {one['share']:.1%} |" for one in found["kernels"])]


def last_line(groups: list[list[dict[str, Any]]]) -> str:
    """Of the recommended variant: the branch against joint, and what the whole step costs."""
    best = {found["what"]: found for group in reversed(groups) for found in group if found["recommended"]}
    branch, step = best["branch"], best["step"]
    memory, cost = number(branch["peak_ratio"]), number(step["forward_equivalents"], ".1f")
    return (
        f"consistency branch: time {number(branch['time_ratio'])} memory {memory} of joint; "
        f"step: {cost} forward-equivalents"
    )
