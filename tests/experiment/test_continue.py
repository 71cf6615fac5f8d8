"""Which run `resume` continues: with another evaluation, for longer, beside methods that it does not use."""

import shutil

import pytest
import yaml

from commands import TINY, decm, only, results, train
from decm.experiment.resume import check_same_training, run_to_continue
from decm.runs.folders import read_config, write_config
from decm.settings.composition import add_contents, compose, plain
from decm.sweeps.job import finished_metric
from resuming import assert_same_run, checkpoint
from settings.test_bad_input import assert_one_sentence


def composed(*overrides):
    cfg = compose("train", [*TINY, *overrides])
    add_contents(cfg)
    return cfg


def begun(root, *overrides):
    """The folder of an unfinished run of these settings, of which nothing else is there."""
    folder = root / "smoke" / "2020-01-01_00-00-00"
    folder.mkdir(parents=True)
    write_config(folder, plain(composed(*overrides)))
    return folder


@pytest.fixture
def stopped(finished, runs):
    """A copy of the finished run, as it was before its results."""
    return shutil.copytree(
        finished.folder, runs / "smoke" / "2020", symlinks=True, ignore=shutil.ignore_patterns("results.json")
    )


def test_a_run_goes_on_with_another_evaluation_and_its_results_are_of_that(runs, stopped):
    answer = train(runs, "resume=auto", "evaluation.num_samples=50", "evaluation.nfe=[1]", "evaluation.preview_every=2")
    assert answer.code == 0, answer.said
    assert f"Continuing {stopped} at step 6 of 6" in answer.out
    (line,) = [line for line in answer.out.splitlines() if "goes on with other settings" in line]
    assert "evaluation.num_samples is 50, was 60" in line
    found = results(only(runs / "smoke"))
    assert (found["num_samples"], list(found["student"])) == (50, ["1"])
    assert read_config(stopped)["evaluation"]["num_samples"] == 50


def test_a_job_of_a_sweep_is_the_same_with_the_same_evaluation_only(finished):
    """Its figures are compared with the other jobs'."""
    assert finished_metric(finished.folder, plain(composed())) == results(finished.folder)["student"]["1"]
    with pytest.raises(ValueError, match=r"evaluation\.num_samples is 50, was 60"):
        finished_metric(finished.folder, plain(composed("evaluation.num_samples=50")))


def test_resume_says_why_the_newest_unfinished_run_is_not_continued(tmp_path, capsys):
    folder = begun(tmp_path)
    assert run_to_continue(composed(f"runs={tmp_path}", "resume=auto")) == folder
    assert capsys.readouterr().out == ""
    assert run_to_continue(composed(f"runs={tmp_path}", "resume=auto", "seed=3", "max_steps=9")) is None
    (line,) = capsys.readouterr().out.splitlines()
    assert str(folder) in line
    assert "max_steps is 9, was 6; seed is 3, was 0" in line
    assert "schedule.total" not in line  # which follows max_steps
    assert run_to_continue(composed(f"runs={tmp_path}", "resume=auto", "name=other")) is None
    assert capsys.readouterr().out == ""


def test_a_run_that_is_trained_longer_is_the_run_of_all_its_steps(cached):
    """Bitwise, with a schedule that does not depend on the end; its earlier results are kept aside."""
    settings = ["schedule=constant", "method=fm", "teacher=none", "evaluation.nfe=[1]"]
    assert train(cached, *settings, "max_steps=6", "name=whole").code == 0
    assert train(cached, *settings, "max_steps=4").code == 0
    folder = only(cached / "smoke")
    answer = train(cached, *settings, "max_steps=6", f"resume={folder}")
    assert answer.code == 0, answer.said
    assert "at step 4 of 6" in answer.out
    assert checkpoint(folder)["global_step"] == 6
    assert_same_run(folder, only(cached / "whole"))
    assert (folder / "results_step4.json").is_file()


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ([], ["max_steps=8"], ["schedule.total", "warmup_cosine", "warm_start="]),
        (["schedule=constant"], ["max_steps=8"], ["noise_to_noisy.decay_steps", "warm_start="]),
        (
            ["method=fm", "schedule.warmup=0", "schedule.total=6"],
            ["max_steps=8"],
            ["learning rate", "warmup_cosine", "warm_start="],
        ),
        (["method=fm", "schedule.total=20"], ["max_steps=8"], None),
        (["schedule=constant", "method.noise_to_noisy.decay_steps=6"], ["max_steps=8"], None),
        (["schedule=constant", "method=fm"], ["max_steps=5"], ["max_steps is 5, was 6"]),
        ([], ["max_steps=8", "seed=1"], ["max_steps is 8, was 6; seed is 1, was 0.", "warm_start="]),
        (["schedule=constant", "method=fm"], ["schedule=cosine", "max_steps=8"], ["schedule.total is 8", "warm_start"]),
    ],
)
def test_training_longer_is_allowed_where_nothing_follows_the_number_of_steps(tmp_path, before, now, said):
    folder, cfg = begun(tmp_path, *before), composed(*before, *now)
    if said is None:
        check_same_training(cfg, folder)
        return
    with pytest.raises(ValueError, match="resume=") as refused:
        check_same_training(cfg, folder)
    assert [words for words in said if words not in str(refused.value)] == []


def test_a_run_stores_the_segments_that_it_is_trained_on_alone(finished):
    config = yaml.safe_load((finished.folder / "config.yaml").read_text())
    assert "segments" not in config
    assert set(config["method"]) == {"consistency", "instantaneous", "noise_to_noisy"}


def test_shared_numbers_that_a_method_does_not_take_are_not_compared(tmp_path):
    folder = begun(tmp_path, "method=fm")
    check_same_training(composed("method=fm", "segments.noise_to_noisy.start=0.9"), folder)
    with pytest.raises(ValueError, match=r"method\.instantaneous\.objective\.cosine is 0\.5, was 1\.0"):
        check_same_training(composed("method=fm", "segments.instantaneous.cosine=0.5"), folder)


def test_a_new_method_and_another_methods_numbers_leave_every_run_able_to_go_on(runs, stopped, tmp_path):
    folder = tmp_path / "conf" / "method"
    folder.mkdir(parents=True)
    (folder / "new_method.yaml").write_text("method:\n  new:\n    weight: 3.0\n")
    (folder / "mean_flow.yaml").write_text("method:\n  mean_flow:\n    weight: 7.0\n")
    answer = train(runs, "--config-dir", str(tmp_path / "conf"), "resume=auto")
    assert answer.code == 0, answer.said
    assert f"Continuing {stopped}" in answer.out
    run = only(runs / "smoke")
    assert finished_metric(run, plain(composed())) == results(run)["student"]["1"]
    (run / "results.json").unlink()
    refused = train(runs, "method.consistency.weight=7", f"resume={run}")
    assert_one_sentence(refused, "method.consistency.weight is 7.0, was 1.0")


@pytest.mark.parametrize("num", [2, 3])
def test_fewer_samples_than_the_judge_has_neighbors_are_refused_before_they_are_made(finished, num):
    answer = decm("evaluate", f"checkpoint={finished.folder}", "nfe=[1]", f"num_samples={num}")
    assert answer.code == 2
    assert f"decm: num_samples={num}; expected 4" in answer.err
    assert not (finished.folder / "samples_cache").exists()
