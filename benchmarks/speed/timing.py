"""Seconds a step, variants in turns; peak memory on a GPU, and on a CPU in a process of its own."""

import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from speed.cases import Case
from speed.work import Work

SRC = Path(__file__).resolve().parents[2] / "src"


def wait(device: str) -> None:
    """Until the device has done what it was asked to."""
    if device == "cuda":
        torch.cuda.synchronize()


def once(run: Callable[[], None], device: str) -> float:
    """Seconds of one run."""
    wait(device)
    began = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - began


def in_turns(runs: Sequence[Callable[[], None]], rounds: int, device: str) -> list[list[tuple[float, float]]]:
    """(seconds, processor seconds) of each of `rounds` runs, one after the other in every round: [runs][rounds]."""
    times: list[list[tuple[float, float]]] = [[] for _ in runs]
    for _ in range(rounds):
        for taken, run in zip(times, runs, strict=True):
            began = time.process_time()
            taken.append((once(run, device), time.process_time() - began))
    return times


def whole(work: Work) -> Callable[[], None]:
    """All steps of one measurement."""

    def run() -> None:
        for k in work.steps:
            work.step(k)

    return run


def time_group(works: Sequence[Work], rounds: int, device: str) -> list[dict[str, float]]:
    """Each case's median seconds a step, and its ratio to the first case's: median over rounds, and of the fastest.

    `processor_ratio` is that of processor time, which other work on the same cores disturbs less.
    """
    runs = [whole(work) for work in works]
    in_turns(runs, 1, device)  # compiles, and warms up
    times = in_turns(runs, rounds, device)
    seconds, processor = ([[pair[k] for pair in taken] for taken in times] for k in (0, 1))
    return [
        {
            "seconds": statistics.median(taken) / len(work.steps),
            "time_ratio": statistics.median(a / b for a, b in zip(taken, seconds[0], strict=True)),
            "fastest_ratio": min(taken) / min(seconds[0]),
            "processor_ratio": statistics.median(busy) / statistics.median(processor[0]),
        }
        for work, taken, busy in zip(works, seconds, processor, strict=True)
    ]


def first_and_peak(work: Work) -> dict[str, float]:
    """Seconds of the first step, and bytes at the peak of a later one over what was allocated before (CUDA)."""
    first = once(lambda: work.step(0), "cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    once(lambda: work.step(0), "cuda")
    return {"first_seconds": first, "peak": torch.cuda.max_memory_allocated() - before}


def status(key: str) -> int:
    """A size in bytes of this process: VmRSS, what is resident, or VmHWM, the most that ever was."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def resident() -> int:
    """Bytes resident, once what was freed is returned to the system (Linux)."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return status("VmRSS")


def resident_peak(run: Callable[[], object]) -> int:
    """Bytes resident at the peak of `run`, over what was resident before it (Linux)."""
    before = resident()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the high-water mark starts anew
    run()
    return status("VmHWM") - before


def alone(module: str, question: dict[str, object]) -> dict[str, Any]:
    """What `python -m module` answers to a question, both JSON; large tensors go back to the system when freed."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SRC), str(SRC.parent / "benchmarks")]),
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "PYTHONWARNINGS": "ignore",
    }
    answer = subprocess.run(
        [sys.executable, "-m", module, json.dumps(question)], env=environment, capture_output=True, text=True
    )
    if answer.returncode:
        raise RuntimeError(f"{module} {question} failed:\n{answer.stderr[-2000:]}")
    return json.loads(answer.stdout.splitlines()[-1])


def main() -> None:
    work = Work(Case(**json.loads(sys.argv[1])), "cpu")
    first = once(lambda: work.step(0), "cpu")
    work.step(0)
    print(json.dumps({"first_seconds": first, "peak": resident_peak(lambda: work.step(0))}))


if __name__ == "__main__":
    main()
