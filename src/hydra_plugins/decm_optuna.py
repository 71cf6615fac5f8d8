"""What Hydra finds: plugins must be in this namespace. Optuna is imported where the sweeper is used."""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class TotalOptunaSweeper(Sweeper):
    """decm.sweeps.optuna_study.TotalSweeper."""

    def __init__(self, **settings: Any) -> None:
        from decm.sweeps.optuna_study import TotalSweeper

        self.sweeper = TotalSweeper(**settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.sweeper.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> None:
        return self.sweeper.sweep(arguments)
