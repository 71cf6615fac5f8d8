"""What Hydra finds: plugins must be in this namespace. Their packages are imported where a launcher is used."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class _Delegate(Launcher):
    """The launcher of the same name in a module that is imported when it is used."""

    module = "decm.sweeps.submitit_jobs"

    def __init__(self, **settings: Any) -> None:
        self.launcher: Launcher = getattr(import_module(self.module), type(self).__name__)(**settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        return self.launcher.launch(job_overrides, initial_job_idx)


class JoblibLauncher(_Delegate):
    """Jobs as processes of this machine, n_jobs at once."""

    module = "decm.sweeps.launchers"


class LocalLauncher(_Delegate):
    """Jobs by submitit on this machine, all at once."""


class SlurmLauncher(_Delegate):
    """Jobs by submitit in SLURM's allocations."""
