"""The values of a sweep, each tried before its folder is made."""

import optuna
import pytest
import yaml

from commands import only, results, train
from sweeps.test_sweep_study import STUDY, total, trials

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["-m", "method=fm,nope"], "method=nope"),
        (["-m", "method=fm,ect", "seed=0,x"], "seed=x"),
        (["sweep=n2n", "method=fm"], "method.noise_to_noisy.objective.start=0.0"),
        (["sweep=optuna_n2n", "method=fm"], "method.noise_to_noisy.objective.end=0.25"),
        (["sweep=optuna_n2n", "schedule=choice(cosine,nope)"], "schedule=nope"),
    ],
)
def test_a_value_that_no_job_can_have_is_refused_before_a_folder_is_made(tmp_path, words, named):
    answer = train(tmp_path / "runs", *words)
    assert answer.code == 2, answer.said
    assert named in answer.err
    assert "Traceback" not in answer.said
    assert not (tmp_path / "runs").exists()


def test_a_study_of_which_no_trial_was_begun_is_no_hindrance(runs):
    """Its trial that was drawn, with the other settings, is forgotten."""
    folder = runs / "smoke" / "multirun" / "optuna_n2n"
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(yaml.safe_dump({"overrides": ["method=other"], "jobs": 1, "inherited": []}))
    study = optuna.create_study(study_name="optuna_n2n", storage=f"sqlite:///{folder / 'study.db'}")
    study.ask().suggest_float("optimizer.lr", 7, 8)
    answer = train(runs, *STUDY, total(1))
    assert answer.code == 0, answer.said
    ((state, value, parameters),) = trials(folder)
    assert (state, value) == ("COMPLETE", results(folder / "0")["student"]["1"])
    assert parameters["optimizer.lr"] < 7
    assert only(folder.parent) == folder
