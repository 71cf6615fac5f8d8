"""Time, memory and operations of a training step, against one joint `torch.func.jvp` of the whole network.

    python benchmarks/step.py --set cpu --out docs/results/step_cpu.json     (under ten minutes)
    python benchmarks/step.py --set gpu --out docs/results/step_gpu.json     (meant to be ten minutes; never run yet)
    python benchmarks/step.py --set gpu-all                                  (more batches, B/1 and float32)

Variants are timed in turns within one process; peak memory on the CPU is taken in a process for each variant, over
weights, gradients and optimizer state. Prints Markdown; the last line sums up.
"""

import argparse
import datetime
import gc
import json
import logging
import os
import tempfile
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from speed.cases import FEW, JOINT, Case, cpu_groups, gpu_groups, short_gpu_groups, variants
from speed.extras import attention_seconds, bf16_error, largest_batch, recompilations
from speed.flops import counted, dense_peak
from speed.profile import profiled
from speed.report import group_table, last_line, machine, other_tables
from speed.sampling import data_path, decoded_a_second, images_a_second
from speed.timing import alone, first_and_peak, time_group
from speed.work import Work

GROUPS = {"cpu": cpu_groups, "gpu": short_gpu_groups, "gpu-all": gpu_groups}
Counts = dict[tuple[str, str, bool, str], tuple[float, float]]


def runnable(cases: list[Case], device: str) -> tuple[list[Work], list[dict[str, float]]]:
    """The cases that fit, with the same weights, and each one's first seconds and peak memory; names the others."""
    works, peaks, work = list[Work](), list[dict[str, float]](), None
    for case in cases:
        try:
            work = Work(case, device, works[0] if works else None)
            peaks.append(alone("speed.timing", asdict(case)) if device == "cpu" else first_and_peak(work))
            works.append(work)
        except torch.OutOfMemoryError:
            print(f"{case.what} {case.variant}, batch {case.batch}: does not fit", flush=True)
            work = None
            gc.collect()
            torch.cuda.empty_cache()
    return works, peaks


def measure_group(cases: list[Case], rounds: int, device: str, counts: Counts) -> list[dict[str, Any]]:
    """One row a variant; ratios are to the joint way, where that fits."""
    gc.collect()  # the group before
    works, peaks = runnable(cases, device)
    found, against_joint = list[dict[str, Any]](), bool(works) and works[0].case.engine == JOINT
    times = time_group(works, rounds if cases[0].what == "branch" else (rounds + 1) // 2, device)
    for work, taken, most in zip(works, times, peaks, strict=True):
        case = work.case
        key = (case.what, case.engine, case.checkpointed, case.network)
        model = (case.what, "dual", False, case.network)  # whose operations are the model's: none is done again
        for wanted in (key, model):
            if wanted not in counts:
                counts[wanted] = counted(replace(case, engine=wanted[1], checkpointed=wanted[2]), device)
        best, rate = dense_peak(device), case.batch / taken["seconds"]
        if not against_joint:
            taken = taken | {"time_ratio": None, "fastest_ratio": None}
        found.append(
            asdict(case)
            | taken
            | most
            | {
                "variant": case.variant,
                "recommended": case.recommended,
                "samples_per_second": rate,
                "peak_ratio": most["peak"] / peaks[0]["peak"] if against_joint else None,
                "forward_equivalents": counts[key][1],
                "utilization": counts[model][0] * rate / best if best and case.precision == "bf16" else None,
            }
        )
    return found


def measure_others(case: Case, device: str, every: bool) -> dict[str, Any]:
    """All that is no time of a training step; the largest batches, whose search takes long, if `every`."""
    sizes, rates = {}, images_a_second(case, device)
    if every:
        candidates = variants("step", FEW, precision=case.precision, network=case.network)
        sizes = {candidate.variant: largest_batch(candidate) for candidate in candidates}
    return {
        "images_per_second": rates,
        "decoded_per_second": decoded_a_second(case, device, rates) if device == "cuda" else {},
        "profile": profiled(replace(case, what="step"), device) if device == "cuda" else {},
        "data_path": data_path(),
        "attention": attention_seconds(device),
        "bf16_error": bf16_error(case, device),
        "recompilations": recompilations(case, device),
        "largest_batch": sizes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=GROUPS, required=True)
    parser.add_argument("--rounds", type=int, default=5, help="of timing, in which each variant has its turn")
    parser.add_argument("--out", type=Path, help="a JSON file of all figures")
    args = parser.parse_args()
    if args.set != "cpu" and not torch.cuda.is_available():
        parser.error(f"--set {args.set}: no CUDA device is visible; choose --set cpu")
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("torch").setLevel(logging.ERROR)
    device = "cpu" if args.set == "cpu" else "cuda"
    began, counts, groups = time.perf_counter(), Counts(), list[list[dict[str, Any]]]()
    print(f"{machine(device)}, {datetime.date.today()}\n", flush=True)
    with tempfile.TemporaryDirectory() as cache:  # so that the first step compiles, whatever ran before
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for cases in GROUPS[args.set]():
            groups.append(measure_group(cases, args.rounds, device, counts))
            if groups[-1]:
                print(group_table(groups[-1]), flush=True)
        main_case = next(case for case in GROUPS[args.set]()[0] if case.recommended)
        others = measure_others(main_case, device, every=args.set == "gpu-all")
    print(other_tables(others))
    print(f"Measured in {(time.perf_counter() - began) / 60:.1f} minutes.\n")
    if args.out:
        record = {"machine": machine(device), "date": str(datetime.date.today()), "groups": groups, **others}
        steps = [row for group in groups for row in group if row["what"] == "step" and row["recommended"]]
        if steps and steps[0]["utilization"]:
            record["operations_per_second"] = steps[0]["utilization"] * dense_peak(device)  # for `dry_run=true`
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(last_line([group for group in groups if group]))


if __name__ == "__main__":
    main()
