"""Several `decm train` at a time: progress, what is done already, what failed."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comparing.plan import Job
from decm.runs.folders import RESULTS
from decm.sweeps.job import JOB

ROOT = Path(__file__).resolve().parents[2]
FAILED = "failed.json"


def result(job: Job) -> dict[str, Any] | None:
    """The results of a finished job, else None."""
    path = job.folder / RESULTS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def failure(job: Job) -> str | None:
    """Why a job has no use: what it said when it ended, or figures that are not finite; None otherwise."""
    path = job.folder / FAILED
    if path.is_file():
        return str(json.loads(path.read_text(encoding="utf-8"))["why"])
    found = result(job)
    bad = [nfe for nfe, value in found["student"].items() if not math.isfinite(value)] if found else []
    return f"its samples are not finite at NFE {', '.join(bad)}" if bad else None


def is_done(job: Job) -> bool:
    return result(job) is not None or failure(job) is not None


@dataclass
class Pool:
    """Runs jobs, `at_once` of them at a time, each on one thread; a job that is done is not run again.

    Whatever a job says goes to `<folder>.log`. A job that ended with an error of its own is noted in its folder; one
    that was killed, or refused for its settings, is not, and runs again the next time.
    """

    at_once: int
    runs: Path
    group: str
    running: dict[subprocess.Popen[bytes], tuple[Job, float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def __call__(self, jobs: list[Job], what: str) -> list[str]:
        """Run what is not done; returns a line for each job that could not be."""
        left = [job for job in jobs if not is_done(job)]
        print(f"{what}: {len(jobs)} jobs, {len(jobs) - len(left)} of them done", flush=True)
        total, problems, self.seconds = len(left), [], []
        try:
            while left or self.running:
                while left and len(self.running) < self.at_once:
                    self._start(left.pop(0))
                time.sleep(0.2)
                for process in [process for process in self.running if process.poll() is not None]:
                    job, began = self.running.pop(process)
                    self.seconds.append(time.monotonic() - began)
                    said = self._end(job, process.returncode, problems)
                    print(
                        f"{what} {len(self.seconds)}/{total}  {job.folder.name}  {said}{self._eta(total)}", flush=True
                    )
        finally:
            self._stop()
        return problems

    def _start(self, job: Job) -> None:
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "decm",
            "train",
            *job.overrides,
            f"runs={self.runs}",
            f"logger.group={self.group}",
        ]
        path = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
        with job.folder.with_suffix(".log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", JOB: str(job.folder)},
            )
        self.running[process] = (job, time.monotonic())

    def _end(self, job: Job, code: int, problems: list[str]) -> str:
        """What to say of a job that ended."""
        seconds = f"{self.seconds[-1]:.0f} s"
        found = result(job)
        if found is not None:
            return f"{seconds}  " + "  ".join(f"{nfe}: {value:.4g}" for nfe, value in found["student"].items())
        lines = job.folder.with_suffix(".log").read_text(errors="replace", encoding="utf-8").strip().splitlines()
        why = (lines[-1] if lines else "it said nothing").removeprefix("decm: ")
        if code == 1:  # see `decm --help`: not a mistake in the settings, and not stopped from outside
            job.folder.mkdir(exist_ok=True)
            (job.folder / FAILED).write_text(json.dumps({"why": why}) + "\n", encoding="utf-8")
        else:
            problems.append(f"{job.folder.name} ended with code {code}: {why}")
        return f"FAILED with code {code} after {seconds}: {why}"

    def _eta(self, total: int) -> str:
        left = total - len(self.seconds)
        if not left:
            return ""
        seconds = left * sum(self.seconds) / len(self.seconds) / self.at_once
        until = time.strftime("%H:%M", time.localtime(time.time() + seconds))
        return f"  about {seconds / 60:.0f} minutes left, until {until}"

    def _stop(self) -> None:
        """Ask what runs to save and stop."""
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        for process in self.running:
            process.wait()
        self.running.clear()
