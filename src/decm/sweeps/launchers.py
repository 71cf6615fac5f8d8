"""Launchers of a sweep's jobs: a signal to the sweep reaches each job, and a job that fails does not end the others."""

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from joblib import Parallel, delayed
from omegaconf import DictConfig, OmegaConf, open_dict

from decm.runs.exits import PREEMPTED, JobError
from decm.settings.words import inherited, typed_words
from decm.sweeps.job import one_below, result_of, save_overrides, start
from decm.training.callbacks.reliability.preemption import SIGNALS


@dataclass
class Stop:
    """Whether, and by which signal, the sweep was asked to stop."""

    asked: int | None = None

    def check(self) -> None:
        """Raise JobError, as which a stopped sweep ends, if it was asked to stop."""
        if self.asked is not None:
            name = signal.Signals(self.asked).name
            raise JobError(f"the sweep and its jobs were stopped by {name}; continue with resume=auto", PREEMPTED)


@contextmanager
def handing_on(send: Callable[[int], None]) -> Iterator[Stop]:
    """Inside the `with` block, `send` passes on the signals to this process; only the main thread can catch them."""
    stop = Stop()

    def handler(number: int, frame: FrameType | None) -> None:
        stop.asked = stop.asked or number
        send(number)

    numbers = SIGNALS if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield stop
    finally:
        for number, previous in before.items():
            signal.signal(number, previous if previous is not None else signal.SIG_DFL)


@dataclass(frozen=True)
class Job:
    """A job that is to be done as a `decm train` of its own: its folder, its arguments, what Hydra gets."""

    folder: Path
    words: list[str]
    returned: JobReturn


class JoblibLauncher(Launcher):
    """n_jobs at once, each a process of its own, which joblib's threads wait for.

    joblib's own processes would all be killed by the end of one, before the others have saved.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = {k: v for k, v in settings.items() if k not in ("backend", "prefer", "require")}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader, self.config = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        jobs = [self._job(initial_job_idx + k, list(overrides)) for k, overrides in enumerate(job_overrides)]
        running: dict[Path, subprocess.Popen[bytes]] = {}

        def send(number: int) -> None:
            for process in list(running.values()):
                process.send_signal(number)  # nothing where it has ended

        def do(job: Job) -> None:
            if stop.asked is None:
                if not self.config.dry_run:
                    save_overrides(job.folder, list(job.returned.overrides or []))
                running[job.folder] = process = start(job.folder, job.words)
                if stop.asked is not None:  # in the meantime
                    process.send_signal(stop.asked)
                fill(job.returned, lambda: result_of(job.folder, process.wait()))

        with handing_on(send) as stop:
            Parallel(**{**self.settings, "backend": "threading"})(delayed(do)(job) for job in jobs)
        stop.check()
        return [job.returned for job in jobs]

    def _job(self, number: int, overrides: list[str]) -> Job:
        folder, hydra = place_of(self.loader, self.config, number, overrides)
        task = typed_words(hydra)
        return Job(folder, [*task, *inherited(hydra)], JobReturn(overrides=task))


def place_of(loader: Any, sweep: DictConfig, number: int, overrides: list[str]) -> tuple[Path, DictConfig]:
    """(the folder of a job, its node of Hydra's settings)."""
    config = loader.load_sweep_config(sweep, overrides)
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = number
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)  # what `${hydra:...}` in a folder's name means
    try:
        above = Path(str(OmegaConf.select(config, "hydra.sweep.dir"))).absolute()
        folder = one_below(above, Path(above, str(OmegaConf.select(config, "hydra.sweep.subdir"))))
    finally:
        HydraConfig.instance().cfg = before
    return folder, config.hydra


def fill(returned: JobReturn, result: Callable[[], Any]) -> None:
    """Put what a job returned, or its error, where Hydra looks for it."""
    try:
        returned.return_value, returned.status = result(), JobStatus.COMPLETED
    except Exception as error:
        returned.return_value, returned.status = error, JobStatus.FAILED
