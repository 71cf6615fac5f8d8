"""A job of a sweep: its folder, the results it may have already, and a `decm train` of its own where it wants several
processes.

Lightning launches the processes of a run by repeating the command line of the first one, and that of a sweep would
begin the sweep anew. So such a job is started as a run with the job's overrides, whose folder stands in the
environment; each has a port of its own. Under SLURM all tasks of a job are there from the start: it runs where it is.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from decm.checkpoints.durable import write_text
from decm.checkpoints.files import stored_step
from decm.checkpoints.first_process import is_first
from decm.checkpoints.folder import newest
from decm.checkpoints.names import CHECKPOINTS
from decm.runs.exits import FAILED, INTERRUPTED, PREEMPTED, JobError
from decm.runs.folders import (
    EARLIER_RESULTS,
    RESULTS,
    comparable_settings,
    metric,
    other_settings,
    read_config,
    read_results,
    shortened,
)
from decm.settings.words import inherited, typed_words
from decm.sweeps.table import FAILURE, OVERRIDES, SWEEP, read_failure
from decm.training.callbacks.reliability.preemption import SIGNALS, PreemptedError

JOB = "DECM_JOB"  # in the environment of such a process: the folder of the job that it is
LAUNCHED = (  # what an earlier launch may have left in the environment
    "MASTER_ADDR",
    "MASTER_PORT",
    "NODE_RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "DECM_RUN_FOLDER",
    "DECM_TEACHER_FOLDER",
    "DECM_VERB",
)
BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
PR_SET_PDEATHSIG = 1  # of Linux's prctl


def job_folder() -> Path | None:
    """The folder of the job that this process does, None outside of a sweep.

    Raises ValueError for a launcher that would do nothing.
    """
    if JOB in os.environ:
        if is_first():
            end_with_parent()
        return Path(os.environ[JOB])
    if not HydraConfig.initialized():
        return None
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        if hydra.launcher._target_ != BASIC:
            raise ValueError("`launcher` starts the jobs of a sweep; add -m, also for a single job.")
        return None
    if os.environ.get("SUBMITIT_EXECUTOR") == "local" and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):  # of which submitit ignores the first, and its sweep the second
            signal.signal(number, signal.default_int_handler)
    return one_below(Path(hydra.sweep.dir), Path(hydra.runtime.output_dir))


def one_below(sweep: Path, folder: Path) -> Path:
    """`folder`, a job's. Raises ValueError if it is not directly below the sweep's, where its table looks for it."""
    if folder.parent != sweep.absolute() or folder.name in ("..", "."):
        raise ValueError(f"hydra.sweep.subdir makes {folder}; expected the name of one folder below {sweep}.")
    return folder


def finished_metric(folder: Path, settings: dict[str, Any]) -> float | None:
    """The metric of a job that is done already. Raises ValueError if the folder holds a job with other settings."""
    config = read_config(folder)
    if config is None:
        return None
    own = EARLIER_RESULTS.format(settings["max_steps"])
    if (folder / own).is_file():  # it was trained longer since
        config = {**config, "max_steps": settings["max_steps"]}
    else:
        own = RESULTS
    # With the evaluation: the jobs of a sweep are compared.
    others = other_settings(config, settings, comparable_settings)
    if others:
        raise ValueError(
            f"{folder} is a job with other settings: {shortened(others)}. A "
            "sweep goes on with the same overrides in the same order; set hydra.sweep.dir=<another folder>."
        )
    if not (folder / own).is_file():
        return None
    results = read_results(folder, own)
    value = metric(results)
    if is_first():
        print(f"{folder} is done: {value:.4f} (code {results.get('code_version', 'unknown')})", flush=True)
    return value


def save_overrides(folder: Path, overrides: Sequence[str] | None = None) -> None:
    """Keep the job's overrides in its folder, for the table, and forget that it failed before."""
    if JOB not in os.environ and is_first():
        folder.mkdir(parents=True, exist_ok=True)
        words = typed_words(HydraConfig.get()) if overrides is None else overrides
        write_text(folder / OVERRIDES, yaml.safe_dump(list(words)))
        (folder / FAILURE).unlink(missing_ok=True)


def save_failure(message: str, code: int) -> None:
    """Keep the error of the job that this process does, if it does one, in the folder of that job."""
    given = os.environ.get(JOB)
    hydra: Any = HydraConfig.get() if HydraConfig.initialized() else None
    if given is None and hydra is not None and hydra.mode == RunMode.MULTIRUN:
        given = OmegaConf.select(hydra, "runtime.output_dir", throw_on_missing=False)  # the sweep itself has none
    if given is None or not is_first():
        return
    folder = Path(given)
    if (folder.parent / SWEEP).is_file() and not (folder / RESULTS).is_file():
        if not (folder / OVERRIDES).is_file():
            save_overrides(folder)
        keep_failure(folder, message, code)


def keep_failure(folder: Path, message: str, code: int) -> None:
    """Write the error (message and exit code) of the failed job of a folder."""
    write_text(folder / FAILURE, json.dumps({"message": message, "code": code}))


def wants_processes(cfg: DictConfig) -> bool:
    """Whether the job is to be started as a run of its own, whose processes Lightning launches."""
    several = cfg.trainer.strategy in ("ddp", "fsdp") or str(cfg.trainer.devices) != "1"
    return several and JOB not in os.environ and os.environ.get("SUBMITIT_EXECUTOR") != "slurm"


def run_in_subprocess(folder: Path) -> float | None:
    """Do the job as a `decm train` of its own; its metric.

    Raises PreemptedError where it or this process was asked to stop, at whatever point, and JobError where it failed.
    """
    process = start(folder, [*typed_words(HydraConfig.get()), *inherited(HydraConfig.get())])
    asked, before = _wait(process)
    code = process.returncode
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code == PREEMPTED or asked is not None:
        last, handler = newest(folder / CHECKPOINTS), None
        if asked in (signal.SIGUSR1, signal.SIGUSR2):
            handler = before.get(asked)
        step = stored_step(last) if last is not None else 0
        name = signal.Signals(asked).name if asked is not None else None
        raise PreemptedError(step, name, (lambda: handler(asked, None)) if callable(handler) else lambda: None)
    return result_of(folder, code)


def start(folder: Path, words: list[str]) -> subprocess.Popen[bytes]:
    """The process of a job: the `decm train` of these arguments, in a session of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    return subprocess.Popen(
        [sys.executable, "-m", "decm", "train", *words, "hydra.mode=RUN"],
        env={**environment, JOB: str(folder)},
        start_new_session=True,
    )


def result_of(folder: Path, code: int) -> float | None:
    """The metric of a job whose process ended with `code`, None of a dry run.

    Raises JobError, with the job's own sentence, if it failed.
    """
    if code == 0:
        return metric(read_results(folder)) if (folder / RESULTS).is_file() else None
    if read_failure(folder) is None and code not in (PREEMPTED, INTERRUPTED):
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        keep_failure(folder, f"The job in {folder} ended {how}.", max(code, FAILED))
    found = read_failure(folder) or {"message": f"{folder} was stopped.", "code": code}
    raise JobError(found["message"], found["code"])


def _wait(process: subprocess.Popen[bytes]) -> tuple[int | None, dict[int, Any]]:
    """Wait for a process, handing signals on to it; (the first one, the handlers that were there before)."""
    asked: list[int] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        process.send_signal(number)

    numbers = SIGNALS if threading.current_thread() is threading.main_thread() else ()
    before: dict[int, Any] = {number: signal.signal(number, hand_on) for number in numbers}
    try:
        process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
    return (asked[0] if asked else None), before


def end_with_parent() -> None:
    """Have this process asked to stop when the one that started it dies, however it dies (on Linux)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
