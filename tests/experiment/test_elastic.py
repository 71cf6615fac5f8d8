"""A run goes on where it stood: with other devices, from a damaged checkpoint, with the same teacher only."""

import re
import shutil

import pytest

from commands import TINY, decm, in_a_process, metrics, only, train
from decm.checkpoints.files import read_file, write_file
from decm.checkpoints.folder import name_of
from decm.runs.folders import same_settings
from resuming import LAST
from settings.test_bad_input import assert_one_sentence

SETTINGS = [*TINY, "trainer.checkpoint_every=1", "trainer.keep=9", "optimizer.lr=1e-3"]
TWO = {"ddp": ["trainer.strategy=ddp", "trainer.devices=2"], "fsdp": ["trainer.strategy=fsdp", "trainer.devices=2"]}


def test_where_a_run_is_done_is_no_setting_and_what_is_computed_is():
    trainer = {
        "accelerator": "cpu",
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "threads": 1,
        "compile": False,
        "reshard": False,
        "checkpoint_every": 5,
        "log_every": 1,
        "keep": 2,
        "precision": "32-true",
        "clip_norm": 1.0,
    }
    settings = {"jvp": "dual", "logger": {"kind": "csv"}, "trainer": trainer}
    assert same_settings(settings, {**settings, "logger": {"kind": "wandb"}})
    for key in trainer:
        other = {**settings, "trainer": {**trainer, key: "other"}}
        assert same_settings(settings, other) is (key not in ("precision", "clip_norm"))
    assert not same_settings(settings, {**settings, "jvp": "split"})


def test_another_setting_is_named_where_a_folder_is_resumed(finished, runs):
    folder = shutil.copytree(finished.folder, runs / "smoke" / "2020-01-01_00-00-00", symlinks=True)
    answer = train(runs, f"resume={folder}", "trainer.precision=bf16-mixed", "seed=3")
    assert_one_sentence(answer, "seed is 3, was 0", "trainer.precision is bf16-mixed, was 32-true")


def rewind(folder, step):
    """Leave a finished run as it was when it had saved `step`."""
    (folder / "results.json").unlink()
    for path in (folder / "checkpoints").glob("step_*.ckpt"):
        if path.name > name_of(step):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(scope="module")
def whole(finished, tmp_path_factory):
    """A run of one process that nothing interrupted."""
    runs = finished.begin(tmp_path_factory.mktemp("whole"))
    answer = decm("train", *SETTINGS, f"runs={runs}")
    assert answer.code == 0, answer.said
    return only(runs / "smoke")


def assert_same_run(folder, whole):
    """Losses and weights agree."""
    expected, found = metrics(whole), metrics(folder)
    assert found.keys() == expected.keys()
    for step, row in expected.items():
        for name, value in row.items():
            assert float(found[step][name]) == pytest.approx(float(value), rel=1e-3, abs=1e-5), (step, name)
    ours, theirs = (read_file(place / LAST)["state_dict"] for place in (folder, whole))
    assert max(float((ours[key] - value).abs().max()) for key, value in theirs.items()) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", TWO)
def test_a_run_goes_on_with_two_processes_and_then_with_one_at_the_same_sample(whole, runs, kind):
    """From one file to shards and back too."""
    folder = shutil.copytree(whole, runs / "smoke" / "2020-01-01_00-00-00", symlinks=True)
    arguments = ["train", *SETTINGS, f"runs={runs}", "resume=auto"]
    rewind(folder, 2)
    answer = in_a_process(*arguments, *TWO[kind], GLOO_SOCKET_IFNAME="lo")
    assert answer.code == 0, answer.said
    assert f"Continuing {folder} at step 2 of 6" in answer.out
    assert_same_run(folder, whole)
    assert (folder / LAST).is_dir() is (kind == "fsdp")
    rewind(folder, 4)
    answer = decm(*arguments)
    assert answer.code == 0, answer.said
    assert f"Continuing {folder} at step 4 of 6" in answer.out
    assert_same_run(folder, whole)
    assert (folder / LAST).is_file()


def damaged(path, how):
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + (b"" if how == "truncated" else bytes([content[half] ^ 1]) + content[half + 1 :]))


@pytest.mark.parametrize("how", ["truncated", "flipped"])
def test_a_damaged_checkpoint_is_named_by_verbs_that_take_one_with_what_to_pass_instead(finished, runs, tmp_path, how):
    run = shutil.copytree(finished.folder, runs / "smoke" / "2020-01-01_00-00-00", symlinks=True)
    damaged(run / "checkpoints" / name_of(6), how)
    older = run / "checkpoints" / name_of(4)
    said = ["last.ckpt is not a checkpoint of decm, or it is damaged", f"pass {older} instead"]
    assert_one_sentence(decm("evaluate", f"checkpoint={run}", "nfe=[1]"), *said)
    assert_one_sentence(decm("sample", f"checkpoint={run}", f"out={tmp_path / 'a.png'}"), *said)
    assert_one_sentence(train(runs, "teacher=checkpoint", f"teacher.path={run}"), *said)
    answer = decm("sample", f"checkpoint={older}", f"out={tmp_path / 'a.png'}", "nfe=1")
    assert answer.code == 0, answer.said


def test_a_checkpoint_says_which_code_and_teacher_it_is_of_and_holds_no_teacher(finished):
    stored = read_file(finished.folder / LAST)
    assert stored["teacher"]["path"] == str(finished.teacher)
    assert re.fullmatch("[0-9a-f]{64}", stored["teacher"]["sha256"])
    assert stored["code_version"].startswith("0.1.0")
    assert not any(key.startswith("teacher.") for key in stored["state_dict"])


@pytest.mark.slow
def test_a_teacher_that_has_changed_since_the_checkpoint_is_refused(finished, runs):
    teacher = runs / "teacher.ckpt"
    shutil.copy(finished.teacher / LAST, teacher)
    settings = ["teacher=checkpoint", f"teacher.path={teacher}"]
    assert train(runs, *settings).code == 0
    folder = only(runs / "smoke")
    (folder / "results.json").unlink()
    stored = read_file(teacher)
    stored["state_dict"]["ema.x_embedder.bias"].add_(1e-3)
    teacher.unlink()
    write_file(stored, teacher)
    answer = train(runs, "resume=auto", *settings)
    assert_one_sentence(
        answer, f"The teacher has changed since {folder}", f"found {teacher}", "expected those of", "Restore that file"
    )
    shutil.copy(finished.teacher / LAST, teacher)
    answer = train(runs, "resume=auto", *settings)
    assert answer.code == 0, answer.said
    assert "Continuing" in answer.out
