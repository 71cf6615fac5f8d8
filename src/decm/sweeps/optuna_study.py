"""Optuna's sweeper, going on with its study: n_trials is the total over all starts, and no trial is lost to a kill."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
from hydra.utils import instantiate
from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl, create_params_from_overrides
from optuna.trial import FrozenTrial, TrialState

from decm.runs.exits import JobError


def as_url(storage: Any) -> Any:
    """The URL of a study whose file may have any name: `?` and `#` in a path would end it."""
    path = str(storage).removeprefix("sqlite:///") if str(storage).startswith("sqlite:///") else ""
    odd = set("?#%") & set(path)
    return f"sqlite:///file:{quote(str(Path(path).absolute()))}?uri=true" if odd else storage


class TotalSweeper(OptunaSweeperImpl):
    """Job k is trial k of the study.

    Trials that a killed sweep left running are done first, in their folders, so that they go on from their checkpoints.
    The sampler is seeded by its seed and the number of trials there are, so that a second start does not draw the first
    one's values again.
    """

    def sweep(self, arguments: list[str]) -> None:
        assert self.config is not None
        self.storage = as_url(self.storage)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            study_name=self.study_name, storage=self.storage, directions=self._get_directions(), load_if_exists=True
        )
        self.finish(study, arguments)
        self.job_idx = len(study.trials)
        done = sum(trial.state == TrialState.COMPLETE for trial in study.trials)
        self.n_trials = max(0, self.n_trials - done)
        seed = self.config.hydra.sweeper.sampler.get("seed")
        if seed is not None:
            self.sampler = instantiate(self.config.hydra.sweeper.sampler, seed=seed + self.job_idx)
        try:
            super().sweep(arguments)
        except ValueError as error:  # there is no best trial
            if any(trial.state == TrialState.COMPLETE for trial in study.trials):
                raise
            raise JobError("No trial of the study is complete: all that began have failed.") from error

    def finish(self, study: optuna.Study, arguments: list[str]) -> None:
        """Do the trials that are still running; those that were killed before they had all their values have failed."""
        space, fixed = create_params_from_overrides(self._parse_sweeper_params_config() + arguments)
        running = [trial for trial in study.trials if trial.state == TrialState.RUNNING]
        whole = [trial for trial in running if trial.params.keys() == space.keys() - fixed.keys()]
        for trial in running:
            if trial not in whole:
                study.tell(trial.number, state=TrialState.FAIL)
        if whole:
            assert self.launcher is not None
            jobs = [self.overrides_of(trial, fixed) for trial in whole]
            for trial, job in zip(whole, self.launcher.launch(jobs, initial_job_idx=0), strict=True):
                try:
                    study.tell(trial.number, float(job.return_value))
                except Exception as error:
                    print(f"Trial {trial.number} failed: {error}", flush=True)
                    study.tell(trial.number, state=TrialState.FAIL)

    @staticmethod
    def overrides_of(trial: FrozenTrial, fixed: dict[str, Any]) -> tuple[str, ...]:
        """A trial's job, in the folder of its number."""
        values = {**trial.params, **fixed, "hydra.sweep.subdir": trial.number}
        return tuple(f"{key}={value}" for key, value in values.items())
