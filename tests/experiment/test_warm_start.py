"""`warm_start=<run>`: the student starts from that run's average, strictly; a run that is resumed does not."""

import shutil

import pytest
import torch
import yaml

from commands import TINY, decm, only, train
from decm.experiment.build import build_dataset
from decm.experiment.fit import build_module
from decm.experiment.teachers import load_or_train_teacher, teacher_config
from decm.generator.checkpoints import read_checkpoint, weights_of
from decm.runs.folders import same_settings
from decm.settings.composition import compose, plain, teacher_hash


def refused(answer, *said):
    assert answer.code == 2, answer.said
    assert "Traceback" not in answer.said
    assert [words for words in said if words not in answer.err] == []


def module_of(runs, *overrides, fresh=True):
    cfg = compose("train", [*TINY, f"runs={runs}", *overrides])
    dataset = build_dataset(cfg)
    return build_module(cfg, dataset.manifest, load_or_train_teacher(cfg, dataset, None), fresh=fresh)


@pytest.mark.slow
def test_a_student_and_its_average_start_from_the_averaged_weights(runs, finished, tmp_path):
    """Of a run, a checkpoint and an export; not from the teacher's, which the field stays."""
    average = weights_of(read_checkpoint(finished.folder))
    assert any(average[name].any() for name in average if name.startswith("s_embedder.mlp.2"))  # trained
    assert decm("export", f"run={finished.folder}", f"out={tmp_path / 'model'}").code == 0
    for path in (finished.folder, finished.folder / "checkpoints/last.ckpt", tmp_path / "model"):
        module = module_of(runs, f"warm_start={path}")
        for part in (module.student, module.ema):
            assert all(torch.equal(value, average[key]) for key, value in part.state_dict().items())
    cold, settled = module_of(runs).student.state_dict(), module_of(runs, f"warm_start={path}", fresh=False)
    assert any(not torch.equal(cold[key], average[key]) for key in average)
    assert any(not torch.equal(value, average[key]) for key, value in settled.student.state_dict().items())
    teacher = module_of(runs).teacher.state_dict()
    assert all(torch.equal(value, teacher[key]) for key, value in module.teacher.state_dict().items())


@pytest.mark.slow
def test_a_run_says_and_records_where_it_started(runs, finished):
    answer = train(runs, f"warm_start={finished.folder}", "max_steps=2", "seed=5")
    assert answer.code == 0, answer.said
    assert f"The student starts from {finished.folder}: step 6, trained on digits." in answer.out
    folder = only(runs / "smoke")
    assert yaml.safe_load((folder / "config.yaml").read_text())["warm_start"] == str(finished.folder)
    assert read_checkpoint(folder)["decm_config"]["warm_start"] == str(finished.folder)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["network.hidden_size=36"], "network.hidden_size is 36, was 24"),
        (["network.time_scale=1.0"], "network.time_scale is 1.0, was 5.0"),  # no weight shows it
        (["network.end_embedding=raw"], "network.end_embedding is raw, was difference"),
        (["distill=false"], "warm_start has no effect with distill=false"),
    ],
)
def test_weights_of_another_network_are_refused_before_a_teacher_is_trained(cached, finished, overrides, said):
    answer = train(cached, f"warm_start={finished.folder}", *overrides)
    refused(answer, said)
    assert not (cached / "teacher_smoke").exists()


def test_a_teacher_without_an_end_embedding_is_no_warm_start(cached, finished):
    refused(train(cached, f"warm_start={finished.teacher}"), "network.two_times is True, was False")
    refused(train(cached, "warm_start=nowhere.ckpt"), "'nowhere.ckpt' does not exist")


@pytest.mark.slow
def test_a_run_that_is_continued_goes_on_from_its_own_checkpoint(runs, finished, tmp_path):
    """Bitwise as one that was not stopped, and without the file that it once started from."""
    shutil.copytree(finished.folder, tmp_path / "first")
    settings = ["schedule=constant", f"warm_start={tmp_path / 'first'}"]
    whole = train(runs, *settings, "max_steps=4")
    assert whole.code == 0, whole.said
    expected = read_checkpoint(only(runs / "smoke"))["state_dict"]
    shutil.rmtree(runs / "smoke")
    stopped = train(runs, *settings, "max_steps=4", "faults.nan_at_step=2", "guard.patience=1", "guard.rollbacks=0")
    assert stopped.code == 1, stopped.said
    shutil.rmtree(tmp_path / "first")
    answer = train(runs, *settings, "max_steps=4", "resume=auto")
    assert answer.code == 0, answer.said
    assert "at step 2 of 4" in answer.out
    assert "The student starts from" not in answer.out
    found = read_checkpoint(only(runs / "smoke"))["state_dict"]
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_another_start_is_another_run(finished):
    plain_settings = {"name": "a", "seed": 0}
    warm = {**plain_settings, "warm_start": "x"}
    assert same_settings(plain_settings, {**plain_settings, "warm_start": None})  # what an older decm wrote
    assert not same_settings(plain_settings, warm)
    assert not same_settings(warm, {**warm, "warm_start": "y"})
    settings = plain(teacher_config(compose("train", TINY)))
    assert teacher_hash(settings) == teacher_hash({key: settings[key] for key in settings if key != "warm_start"})
    assert teacher_hash(settings) != teacher_hash({**settings, "warm_start": "x"})
