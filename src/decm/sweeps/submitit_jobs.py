"""submitit's launchers, which wait for all jobs, also where one has left no result, and hand on a stop."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import submitit
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher import config, submitit_launcher
from omegaconf import OmegaConf

from decm.runs.exits import FAILED, INTERRUPTED, JobError
from decm.sweeps.job import keep_failure
from decm.sweeps.launchers import handing_on, place_of
from decm.sweeps.table import read_failure

POLL = 0.1  # seconds
AGAIN = 1.0  # seconds after which a job that still runs is asked to stop again: it may not have listened before


class Launcher(submitit_launcher.BaseSubmititLauncher):
    """submitit's launcher, with another way of waiting for its jobs."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        assert self.config is not None
        assert self.hydra_context is not None
        loader, sweep = self.hydra_context.config_loader, self.config
        folders = [
            place_of(loader, sweep, initial_job_idx + k, list(words))[0] for k, words in enumerate(job_overrides)
        ]
        return self.wait(self.submit(job_overrides, initial_job_idx), folders)

    def submit(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        """The jobs of one array."""
        assert self.config is not None
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        settings, general = dict(self.params), set(OmegaConf.structured(config.BaseQueueConf).keys())
        of_executor = {key: settings.pop(key) for key in ("max_num_timeout",) if key in settings}
        executor = submitit.AutoExecutor(
            folder=settings.pop("submitit_folder"),
            cluster=self._EXECUTOR,
            **{f"{self._EXECUTOR}_{key}": value for key, value in of_executor.items()},
        )
        executor.update_parameters(
            **{key if key in general else f"{self._EXECUTOR}_{key}": value for key, value in settings.items()}
        )
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        jobs = [
            (list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", Singleton.get_state())
            for number, overrides in zip(numbers, job_overrides, strict=True)
        ]
        return executor.map_array(self, *zip(*jobs, strict=True))

    def wait(self, jobs: list[Any], folders: list[Path]) -> list[JobReturn]:
        """What each job returned. Raises JobError where the sweep was stopped."""
        raise NotImplementedError


def result_of(job: Any, folder: Path) -> JobReturn:
    """What a job returned; of one whose process has left nothing, a failure, which its folder keeps too."""
    try:
        return job.results()[0]
    except Exception:  # of submitit, with the whole log in it
        message = f"The process of the job in {folder} has left no result; its log is {job.paths.stderr}."
        if folder.is_dir() and read_failure(folder) is None:
            keep_failure(folder, message, FAILED)
        return JobReturn(status=JobStatus.FAILED, _return_value=JobError(message, FAILED))


@contextmanager
def signals_ignored() -> Iterator[None]:
    """Processes that are started inside the `with` block ignore Ctrl-C until they install handlers of their own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class LocalLauncher(Launcher):
    """Jobs on this machine; what stops the sweep stops them."""

    _EXECUTOR = "local"

    def submit(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        with signals_ignored():
            return super().submit(job_overrides, initial_job_idx)

    def wait(self, jobs: list[Any], folders: list[Path]) -> list[JobReturn]:
        ended = threading.Event()

        def ask() -> None:
            for job in jobs:
                if not job.done():
                    job._process.send_signal(signal.SIGTERM)  # submitit hands it on to the job's processes

        def keep_asking() -> None:
            while not ended.wait(AGAIN):
                if stop.asked is not None:
                    ask()

        with handing_on(lambda number: ask()) as stop:
            asking = threading.Thread(target=keep_asking, daemon=True)
            asking.start()
            while not all(job.done() for job in jobs):
                time.sleep(POLL)
            ended.set()
            asking.join()
        stop.check()  # before the results, for which submitit waits where there are none
        return [result_of(job, folder) for job, folder in zip(jobs, folders, strict=True)]


class SlurmLauncher(Launcher):
    """Jobs in allocations of their own, which go on whatever becomes of the process that waits for them."""

    _EXECUTOR = "slurm"

    def wait(self, jobs: list[Any], folders: list[Path]) -> list[JobReturn]:
        try:
            return [result_of(job, folder) for job, folder in zip(jobs, folders, strict=True)]
        except KeyboardInterrupt:
            number = str(jobs[0].job_id).split("_")[0]
            raise JobError(
                f"interrupted, and the jobs go on in SLURM: `scancel {number}` ends them. The same command with "
                "resume=auto does what they leave.",
                INTERRUPTED,
            ) from None
