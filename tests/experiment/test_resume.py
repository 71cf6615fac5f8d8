"""A killed run goes on from its checkpoint and gives, bitwise, what the uninterrupted one gives."""

import random
import shutil
from unittest import mock

import pytest

from commands import TINY, only, train
from decm.checkpoints.files import write_file
from decm.checkpoints.folder import checkpoints, step_of
from resuming import LAST, assert_same_run, checkpoint, killed, last_step

STEPS, TEACHER_STEPS = 24, 30
SETTINGS = [*TINY, f"max_steps={STEPS}", "batch_size=32", "evaluation.every=5", "evaluation.every_num_samples=50"]
KILL_AT = random.Random(20240611).randrange(3, STEPS - 4)  # a step of the student; checkpoints come every two
KILL_TEACHER_AT = random.Random(7).randrange(3, TEACHER_STEPS - 4)


def killed_at(runs, experiment, step):
    """The folder of a run whose process was killed once it had logged `step`."""
    return killed(SETTINGS, runs, experiment, lambda folder: last_step(folder) >= step)


@pytest.fixture(scope="module")
def whole(finished, tmp_path_factory):
    """The run that nothing interrupted."""
    runs = tmp_path_factory.mktemp("whole")
    finished.begin(runs)
    answer = train(runs, settings=SETTINGS)
    assert answer.code == 0, answer.said
    return only(runs / "smoke")


@pytest.fixture(scope="module")
def victim(finished, tmp_path_factory):
    """A root of run folders with a run that was killed while its student trained."""
    runs = tmp_path_factory.mktemp("victim")
    finished.begin(runs)
    folder = killed_at(runs, "smoke", KILL_AT)
    assert KILL_AT <= last_step(folder) < STEPS - 1
    assert not (folder / "results.json").exists()
    return runs


@pytest.fixture
def killed_run(victim, tmp_path):
    """A copy of its own for each test, and the folder of the killed run in it."""
    runs = shutil.copytree(victim, tmp_path / "runs", symlinks=True)
    return runs, only(runs / "smoke")


def resumed(runs):
    with mock.patch("decm.evaluation.progress.LINE_EVERY", 0.0):  # a line for every step
        answer = train(runs, "resume=auto", settings=SETTINGS)
    assert answer.code == 0, answer.said
    return answer


@pytest.mark.slow
def test_a_killed_run_goes_on_in_its_folder_and_ends_bitwise_like_the_whole_one(killed_run, whole):
    runs, folder = killed_run
    step = checkpoint(folder)["global_step"]
    assert 0 < step <= last_step(folder) + 1 < STEPS
    said = resumed(runs).out
    assert f"Continuing {folder} at step {step} of {STEPS}" in said
    assert f"step {step + 1}/{STEPS}" in said
    assert f"step {step}/{STEPS}" not in said
    assert only(runs / "smoke") == folder
    assert_same_run(folder, whole)


@pytest.mark.slow
def test_without_its_checkpoint_it_starts_afresh(killed_run, whole):
    """The negative control: nothing but the checkpoint makes it go on. It ends the same, having done it all again."""
    runs, folder = killed_run
    shutil.rmtree(folder / "checkpoints")
    said = resumed(runs).out
    assert "Continuing" not in said
    assert f"step 1/{STEPS}" in said
    assert_same_run(folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["student", "ema", "optimizer", "loader"])
def test_each_part_of_the_checkpoint_matters(killed_run, whole, part):
    """The negative control of the comparison: a checkpoint with one part spoilt does not end the same."""
    runs, folder = killed_run
    spoilt = checkpoint(folder)
    if part == "optimizer":
        for state in spoilt["optimizer_states"][0]["state"].values():
            state["exp_avg"].mul_(0.9)
    elif part == "loader":
        (states,) = spoilt["loops"]["fit_loop"]["state_dict"]["combined_loader"]
        states["samples"] -= 32  # a batch seen twice
    else:
        spoilt["state_dict"][f"{part}.x_embedder.bias"].add_(1e-3)
    write_file(spoilt, folder / LAST)  # which is a file of its own in a copy, and whole
    assert "Continuing" in resumed(runs).out
    with pytest.raises(AssertionError):
        assert_same_run(folder, whole)


@pytest.mark.slow
def test_other_settings_leave_a_killed_run_alone(killed_run):
    runs, folder = killed_run
    answer = train(runs, "resume=auto", "seed=1", settings=[*SETTINGS, "max_steps=2"])
    assert answer.code == 0, answer.said
    assert "Continuing" not in answer.out
    assert not (folder / "results.json").exists()
    assert len(list((runs / "smoke").iterdir())) == 2


@pytest.mark.slow
def test_a_run_killed_in_its_teachers_stage_goes_on_there_in_the_same_folders(cached, finished, whole):
    teacher = killed_at(cached, "teacher_smoke", KILL_TEACHER_AT)
    student = only(cached / "smoke")
    assert not (teacher / "results.json").exists()
    assert not (student / "checkpoints").exists()
    step = checkpoint(teacher)["global_step"]
    assert 0 < step < TEACHER_STEPS
    said = resumed(cached).out
    assert f"Continuing {teacher} at step {step} of {TEACHER_STEPS}" in said
    assert f"Continuing {student}" not in said
    assert only(cached / "teacher_smoke") == teacher
    assert only(cached / "smoke") == student
    assert_same_run(teacher, finished.teacher)
    assert_same_run(student, whole)


def spoil(path, how):
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + (b"" if how == "truncated" else bytes([content[half] ^ 1]) + content[half + 1 :]))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["truncated", "flipped"])
def test_the_newest_checkpoint_is_damaged_and_the_one_before_it_is_used(killed_run, whole, how):
    """A file that ends in its middle, and one with a bit changed there."""
    runs, folder = killed_run
    newest, before, *_ = checkpoints(folder / "checkpoints")
    spoil(newest, how)
    said = resumed(runs).out
    assert f"Checkpoint {newest} is damaged" in said
    assert f"Using the newest one that is whole instead: {before}" in said
    assert f"Continuing {folder} at step {step_of(before)} of {STEPS}" in said
    assert_same_run(folder, whole)


WATCH = """
import os, time
from pathlib import Path
from decm.training.callbacks.evaluation.previews import Evaluate
act = Evaluate.act
def slowly(self, trainer, student):
    if trainer.global_step == 10:
        Path(os.environ["MARK"]).touch()
        self.evaluator(student, self.nfes, self.num_samples, self.trained_on)
        time.sleep(60)
    act(self, trainer, student)
Evaluate.act = slowly
"""


@pytest.mark.slow
def test_a_run_killed_within_its_evaluation_goes_on_from_the_checkpoint_before_it(cached, finished, whole, tmp_path):
    shutil.copytree(finished.teacher.parent, cached / finished.teacher.parent.name)
    mark = tmp_path / "mark"
    folder = killed(SETTINGS, cached, "smoke", lambda _: mark.exists(), before=WATCH, MARK=str(mark))
    assert step_of(checkpoints(folder / "checkpoints")[0]) == 8
    assert "Continuing" in resumed(cached).out
    assert_same_run(folder, whole)
    best, *_ = [path for path in (folder / "checkpoints").iterdir() if path.name == "best.ckpt"]
    assert best.resolve().name == (whole / "checkpoints" / "best.ckpt").resolve().name
