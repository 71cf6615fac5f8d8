"""A study of Optuna in parts: its total, what a kill left, trials that failed. And a grid that is killed."""

import os
import signal

import pytest
import yaml

from commands import TINY, decm, metrics, results, train
from forked import decm_beside
from resuming import wait_for

pytestmark = pytest.mark.slow
STUDY = ["sweep=optuna_n2n", "max_steps=2", "evaluation.nfe=[1]"]


def trials(folder):
    """[(state, value, parameters)] of the study in a sweep's folder."""
    import optuna

    study = optuna.load_study("optuna_n2n", f"sqlite:///{folder / 'study.db'}")
    return [(trial.state.name, trial.value, trial.params) for trial in study.trials]


def total(number):
    return f"hydra.sweeper.n_trials={number}"


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and "study" not in path.name}


def test_a_second_command_does_what_is_missing_of_the_total_and_draws_anew(runs):
    folder = runs / "smoke" / "multirun" / "optuna_n2n"
    answer = train(runs, *STUDY, total(2))
    assert answer.code == 0, answer.said
    before = times(folder / "0") | times(folder / "1")
    answer = train(runs, *STUDY, total(3))
    assert answer.code == 0, answer.said
    assert times(folder / "0") | times(folder / "1") == before
    found = trials(folder)
    assert [state for state, _, _ in found] == ["COMPLETE"] * 3
    assert len({parameters["optimizer.lr"] for _, _, parameters in found}) == 3
    for number, (_, value, parameters) in enumerate(found):
        assert value == results(folder / str(number))["student"]["1"]
        settings = yaml.safe_load((folder / str(number) / "config.yaml").read_text())
        assert settings["optimizer"]["lr"] == parameters["optimizer.lr"]
        n2n = settings["method"]["noise_to_noisy"]
        assert n2n["objective"]["end"] == parameters["method.noise_to_noisy.objective.end"]
        assert n2n["r_max"] == parameters["method.noise_to_noisy.r_max"]
    best = min(found, key=lambda trial: trial[1])
    assert f"optimizer.lr={best[2]['optimizer.lr']}" in decm("report", folder).out
    answer = train(runs, *STUDY, total(3))
    assert answer.code == 0, answer.said
    assert len(trials(folder)) == 3


def test_a_study_of_other_settings_is_refused(runs):
    assert train(runs, *STUDY, total(1)).code == 0
    answer = train(runs, *STUDY, total(2), "seed=1")
    assert answer.code == 2
    assert "is a study with other settings" in answer.err
    assert len(trials(runs / "smoke" / "multirun" / "optuna_n2n")) == 1


def test_trials_that_fail_are_told_to_the_study_and_do_not_end_it(runs):
    """A learning rate below zero is refused by the optimizer."""
    folder = runs / "smoke" / "multirun" / "optuna_n2n"
    mixed = ["optimizer.lr=choice(-1.0,0.001)"]
    answer = train(runs, *STUDY, total(4), *mixed)
    assert answer.code == 2, answer.said
    assert "Traceback" not in answer.said
    found = trials(folder)
    assert len(found) == 4
    assert {state for state, _, _ in found} == {"FAIL", "COMPLETE"}
    assert all((state == "FAIL") == (parameters["optimizer.lr"] < 0) for state, _, parameters in found)
    report = decm("report", folder).out
    for number, (state, _, _) in enumerate(found):
        assert (f"| {number} |" in report) == (state == "COMPLETE")
        assert (f"- job {number} (" in report) == (state == "FAIL")
    assert report.count("Invalid learning rate: -1.0") == sum(state == "FAIL" for state, _, _ in found)


def test_a_study_whose_trials_all_fail_says_so(runs):
    answer = train(runs, *STUDY, total(2), "optimizer.lr=-1.0")
    assert answer.code == 1
    assert "2 of 2 jobs failed. No trial of the study is complete" in answer.err
    assert answer.err.count("Invalid learning rate: -1.0") >= 2
    assert "Traceback" not in answer.said


def killed(runs, settings, reached):
    """Start a sweep and kill all of it once `reached()`."""
    process = decm_beside("train", *TINY, f"runs={runs}", *settings, own_group=True)
    try:
        wait_for(lambda: reached() or process.poll() is not None, 300)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.said()


def far(folder, step):
    try:
        return max(metrics(folder), default=-1) >= step
    except (FileNotFoundError, KeyError, ValueError):
        return False


def test_a_trial_that_was_killed_goes_on_in_its_folder_and_counts_once(runs):
    folder = runs / "smoke" / "multirun" / "optuna_n2n"
    settings = [*STUDY, "max_steps=60", total(2)]
    killed(runs, settings, lambda: far(folder / "1", 20))
    assert [state for state, _, _ in trials(folder)] == ["RUNNING", "RUNNING"]  # told when both were done
    drawn = [parameters for _, _, parameters in trials(folder)]
    before = times(folder / "0")
    answer = train(runs, *settings)
    assert answer.code == 0, answer.said
    assert f"{folder / '0'} is done" in answer.out
    assert f"Continuing {folder / '1'} at step" in answer.out
    assert times(folder / "0") == before
    assert [(state, parameters) for state, _, parameters in trials(folder)] == [("COMPLETE", p) for p in drawn]


def test_a_grid_that_was_killed_goes_on_with_the_job_it_was_at(runs):
    """Finished jobs are not touched; the one that was killed continues, and ends as if it had not been."""
    settings = ["-m", "seed=0,1,2", "max_steps=60"]
    multirun = runs / "smoke" / "multirun"
    killed(runs, settings, lambda: any(far(path / "1", 20) for path in multirun.glob("*")))
    (folder,) = multirun.iterdir()
    assert not (folder / "2").exists()
    before = times(folder / "0")
    answer = train(runs, *settings, "resume=auto")
    assert answer.code == 0, answer.said
    assert f"Sweep of 3 jobs, 1 of them done, in {folder}" in answer.out
    assert f"Continuing {folder / '1'} at step" in answer.out
    assert times(folder / "0") == before
    assert [path.name for path in multirun.iterdir()] == [folder.name]
    whole = train(runs, "seed=1", "max_steps=60")
    assert whole.code == 0
    (run,) = (path for path in (runs / "smoke").iterdir() if path.name.startswith("2"))
    assert metrics(folder / "1") == metrics(run)
    assert results(folder / "1")["student"] == results(run)["student"]
