"""The processor time of the main job, `make train`, against that of an earlier commit, both in turns on this machine.

Each round runs both from nothing in a folder of its own, on one thread: teacher, distillation, evaluation. The
processor time is that of all their processes.

python benchmarks/main_job.py e44f1ee --out docs/results/main_job.json
"""

import argparse
import datetime
import json
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from speed.report import machine

ROOT = Path(__file__).parents[1]
JOB = ["-m", "decm", "train", "experiment=decm_digits", "logger=csv"]


def checked_out(commit: str, folder: Path) -> Path:
    """The files of a commit, in a folder that lies beside the work of this checkout."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


def timed(source: Path, work: Path, overrides: list[str]) -> dict[str, Any]:
    """{processor seconds, seconds, distances of the student, of the teacher} of the job, from nothing."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(source / "src"), "OMP_NUM_THREADS": "1"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, *JOB, f"runs={work / 'runs'}", *overrides]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"The job of {source} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    (path,) = (work / "runs" / "decm_digits").glob("*/results.json")
    results = json.loads(path.read_text(encoding="utf-8"))
    return {
        "processor_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "seconds": time.monotonic() - began,
        "student": results["student"],
        "teacher": results["teacher"],
    }


def main() -> None:
    """Time both in turns; print and write the ratio of the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("commit", help="the earlier commit")
    parser.add_argument("overrides", nargs="*", help="settings of both, for a shorter trial")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sources = {options.commit: checked_out(options.commit, Path(folder, "before")), "this checkout": ROOT}
        rounds: list[dict[str, Any]] = []
        for number in range(options.rounds):
            rounds.append({})
            for name, source in sources.items():
                rounds[-1][name] = found = timed(source, Path(folder, "work"), options.overrides)
                print(
                    f"round {number + 1} of {options.rounds}, {name}: {found['processor_seconds']:.1f} s of a "
                    f"processor, {found['seconds']:.1f} s; student {found['student']}",
                    flush=True,
                )
    medians = {name: statistics.median(one[name]["processor_seconds"] for one in rounds) for name in sources}
    ratio = medians["this checkout"] / medians[options.commit]
    print(f"{ratio:.3f} times the processor time of {options.commit}")
    if options.out:
        record = {
            "command": f"python benchmarks/main_job.py {shlex.join([options.commit, *options.overrides])}",
            "machine": machine("cpu"),
            "date": str(datetime.date.today()),
            "ratio": ratio,
            "medians": medians,
            "rounds": rounds,
        }
        options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
