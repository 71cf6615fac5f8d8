"""A killed run goes on from its checkpoint and gives, bitwise, what the uninterrupted one gives."""

import random
import shutil
import signal
import subprocess
import time

import pytest
import torch

from commands import TINY, command, environment, metrics, only, results, train

STEPS, TEACHER_STEPS = 24, 30
SETTINGS = [*TINY, f"max_steps={STEPS}", "batch_size=32", "evaluation.every=5", "evaluation.every_num_samples=50"]
KILL_AT = random.Random(20240611).randrange(3, STEPS - 4)  # a step of the student; checkpoints come every two
KILL_TEACHER_AT = random.Random(7).randrange(3, TEACHER_STEPS - 4)
LAST = "checkpoints/last.ckpt"


def checkpoint(folder):
    return torch.load(folder / LAST, weights_only=True)


def assert_same(a, b, path=""):
    """Equal bitwise, all the way down."""
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for k, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_same(left, right, f"{path}/{k}")
    else:
        assert a == b, path


def assert_same_run(folder, whole):
    """Losses, distances, weights, averages, optimizer and its schedule."""
    assert metrics(folder) == metrics(whole)
    ours, theirs = checkpoint(folder), checkpoint(whole)
    assert ours["global_step"] == theirs["global_step"] > 0
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "forward_equivalents"):
        assert_same(ours[part], theirs[part], part)
    if "student" in results(whole):
        for key in ("student", "teacher", "accuracy", "forward_equivalents"):
            assert results(folder)[key] == results(whole)[key]


def last_step(folder):
    """The last step in metrics.csv; -1 where there is none yet."""
    try:
        return max(metrics(folder), default=-1)
    except (FileNotFoundError, KeyError, ValueError):
        return -1


def killed(runs, experiment, step):
    """Start a run, kill its process (SIGKILL) once `experiment` has logged `step`, and give its folder back."""
    process = subprocess.Popen(
        command("train", *SETTINGS, f"runs={runs}", "resume=auto"),
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        limit = time.monotonic() + 180
        while time.monotonic() < limit and process.poll() is None:
            folders = list((runs / experiment).glob("2*"))
            if folders and last_step(folders[0]) >= step:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        said = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, said
    return only(runs / experiment)


@pytest.fixture(scope="module")
def whole(finished, tmp_path_factory):
    """The run that nothing interrupted."""
    runs = tmp_path_factory.mktemp("whole")
    for name in ("cache", "teacher_smoke"):
        shutil.copytree(finished.runs / name, runs / name)
    answer = train(runs, settings=SETTINGS)
    assert answer.code == 0, answer.said
    return only(runs / "smoke")


@pytest.fixture(scope="module")
def victim(finished, tmp_path_factory):
    """A root of run folders with a run that was killed while its student trained."""
    runs = tmp_path_factory.mktemp("victim")
    for name in ("cache", "teacher_smoke"):
        shutil.copytree(finished.runs / name, runs / name)
    folder = killed(runs, "smoke", KILL_AT)
    assert KILL_AT <= last_step(folder) < STEPS - 1
    assert not (folder / "results.json").exists()
    return runs


@pytest.fixture
def killed_run(victim, tmp_path):
    """A copy of its own for each test, and the folder of the killed run in it."""
    runs = shutil.copytree(victim, tmp_path / "runs")
    return runs, only(runs / "smoke")


def resumed(runs):
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
    (folder / LAST).unlink()
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
    torch.save(spoilt, folder / LAST)
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
    teacher = killed(cached, "teacher_smoke", KILL_TEACHER_AT)
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
