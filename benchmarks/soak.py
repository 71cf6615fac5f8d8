"""A long run, watched from outside: its memory, open files, threads and logs must not grow with its steps. Linux.

Memory is the least that was resident since the row before, so that what an evaluation takes for a moment is not taken
for growth; the most is told beside it.

make soak, or: python benchmarks/soak.py --steps 20000 [any Hydra override]
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SETTINGS = [
    "experiment=decm_2d",
    "trainer=cpu",
    "trainer.log_every=10",
    "snapshots.every=1000",
    "logger=wandb",
    "logger.mode=offline",
]
WARM = 2000  # steps, after which nothing may grow
MEMORY, LOGS = 0.02, 200  # the bounds: growth of resident memory, bytes of logs a step (pictures apart)
POLL, READS = 0.2, 5  # seconds; open files are counted so many times, as one may be written just then


@dataclass(frozen=True)
class Sample:
    """What a process holds at a step."""

    step: int
    memory: float  # MiB resident, the least since the sample before
    most: float  # MiB, the most
    files: int
    threads: int
    helper: float  # MiB resident in its child processes (W&B's)
    logs: int  # bytes of metrics.csv and the W&B folder
    pictures: int  # bytes of the pictures that W&B keeps


def status(pid: int, key: str) -> int:
    """A number of /proc/<pid>/status."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])


def children(pid: int) -> list[int]:
    """The processes that a process started, and those that they started."""
    own = [
        int(word)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for word in (task / "children").read_text(encoding="utf-8").split()
    ]
    return own + [grandchild for child in own for grandchild in children(child)]


def last_step(path: Path) -> int:
    """The step of the last line of a metrics.csv; 0 where there is none yet."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            return int(file.read().decode().splitlines()[-1].split(",")[0])
    except (OSError, IndexError, ValueError):
        return 0


def look(pid: int, step: int, run: Path, seen: list[int]) -> Sample:
    """A sample of the process `pid`, whose run folder is `run` and of which `seen` kB were resident of late."""
    counts = []
    for _ in range(READS):
        counts.append(len(os.listdir(f"/proc/{pid}/fd")))
        time.sleep(0.02)
    sizes = {path: path.stat().st_size for path in (run / "wandb").rglob("*") if path.is_file()}
    pictures = sum(size for path, size in sizes.items() if "media" in path.parts)
    logs = sum(sizes.values()) - pictures + (run / "metrics.csv").stat().st_size
    helper = sum(status(child, "VmRSS") for child in children(pid)) / 1024
    memory = (min(seen) / 1024, max(seen) / 1024)
    return Sample(step, *memory, min(counts), status(pid, "Threads"), helper, logs, pictures)


def watch(process: subprocess.Popen[bytes], runs: Path, every: int) -> list[Sample]:
    """Samples about every `every` steps of training until the process ends; printed as rows of a table."""
    print("| step | resident MiB | at most | open files | threads | W&B's process MiB | logs kB | pictures kB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    samples, seen = list[Sample](), list[int]()
    while process.poll() is None:
        time.sleep(POLL)
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, StopIteration):  # it has just ended
            seen.append(status(process.pid, "VmRSS"))
        run = next(iter(runs.glob("*/*_*")), None)
        step = last_step(run / "metrics.csv") if run is not None else 0
        if run is None or step < (samples[-1].step // every + 1 if samples else 1) * every:
            continue
        try:
            samples.append(s := look(process.pid, step, run, seen))
            seen = []
        except (FileNotFoundError, ProcessLookupError, StopIteration):  # it, or a file of it, has just ended
            continue
        memory, kept = f"{s.memory:.1f} | {s.most:.1f} | {s.files} | {s.threads}", f"{s.logs / 1000:.0f}"
        print(f"| {s.step:,} | {memory} | {s.helper:.1f} | {kept} | {s.pictures / 1000:.0f} |", flush=True)
    return samples


def verdict(samples: list[Sample]) -> list[str]:
    """What has grown, in words."""
    later = [sample for sample in samples if sample.step >= WARM]
    if len(later) < 2:
        return [f"There are {len(later)} samples from step {WARM} on; expected two or more. Raise --steps."]
    first, last = later[0], later[-1]
    memory = max(sample.memory for sample in later) / first.memory - 1
    rate = (last.logs - first.logs) / (last.step - first.step)
    print(
        f"\nFrom step {first.step:,} to {last.step:,}: resident memory {100 * memory:+.2f}% at most (bound "
        f"{100 * MEMORY:.0f}%), open files {first.files} to {last.files}, threads {first.threads} to {last.threads}, "
        f"logs {rate:.0f} bytes a step (bound {LOGS})."
    )
    grown = {
        "resident memory": memory >= MEMORY,
        "the number of open files": last.files > first.files,
        "the number of threads": last.threads > first.threads,
        "logs": rate >= LOGS,
    }
    return [f"{what} grew beyond its bound" for what, is_so in grown.items() if is_so]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--every", type=int, default=500, help="steps between two samples")
    parser.add_argument("--folder", help="where the run is made for a while; by default the system's")
    parser.add_argument("overrides", nargs="*", help="of the configuration, as for decm train")
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as runs:
        command = [sys.executable, "-m", "decm", "train", *SETTINGS, f"max_steps={arguments.steps}", f"runs={runs}"]
        with (Path(runs) / "said").open("w+b") as said:
            process = subprocess.Popen([*command, *arguments.overrides], stdout=said, stderr=subprocess.STDOUT)
            try:
                samples = watch(process, Path(runs), arguments.every)
            finally:
                process.kill()
                process.wait()
            said.seek(0)
            text = said.read().decode()
    print(f"\n`decm {' '.join(command[3:-1])}`, {time.monotonic() - began:.0f} s")
    wrong = [f"The run ended with exit code {process.returncode}:\n{text}"] if process.returncode else verdict(samples)
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
