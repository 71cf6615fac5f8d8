"""Files that were damaged, moved or made by another user, and variables that a cluster leaves in the environment."""

import os
import shutil

import pytest

from commands import decm, only, results, train
from decm.checkpoints.durable import write_whole
from decm.data.arrays import digits, folder, write_arrays
from decm.evaluation.generate import check_labels
from decm.runs.contents import weights_content

QUICK = ["max_steps=2", "evaluation.nfe=[1]"]


def test_the_name_of_a_class_is_found_in_either_unicode_form():
    """As a Mac writes it, and as it is typed."""
    names = ["e\u0301te\u0301", "tea"]
    assert check_labels(["\u00e9t\u00e9", "tea"], 2, names).tolist() == [0, 1]
    with pytest.raises(ValueError, match="is the name of no class"):
        check_labels(["cafeteria"], 2, names)


@pytest.mark.parametrize("tasks", ["1", "4"])
def test_an_allocation_of_slurm_without_srun_is_one_process(runs, monkeypatch, tasks):
    for name, value in {"JOB_ID": "1", "JOB_NAME": "train", "NTASKS": tasks, "NTASKS_PER_NODE": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    answer = train(runs, *QUICK)
    assert answer.code == 0, answer.said
    assert results(only(runs / "smoke"))["student"]["1"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 1000])
def test_a_damaged_classifier_in_the_cache_is_told_and_trained_anew(runs, finished, left):
    (cached,) = (runs / "cache").glob("classifier_*.safetensors")
    whole = cached.read_bytes()
    os.truncate(cached, left)
    answer = train(runs, *QUICK)
    assert answer.code == 0, answer.said
    assert "the classifier is trained anew" in answer.out
    assert cached.read_bytes() == whole


def test_a_run_that_was_copied_without_links_is_sampled_from_its_newest_whole_checkpoint(finished, tmp_path):
    run = shutil.copytree(finished.folder, tmp_path / "run", symlinks=True)
    for link in (run / "checkpoints").iterdir():
        if link.is_symlink():
            link.unlink()
    answer = decm("sample", f"checkpoint={run}", f"out={tmp_path / 'a.png'}")
    assert answer.code == 0, answer.said
    assert "has no checkpoints/last.ckpt: step_00000006.ckpt is taken" in answer.out
    assert decm("sample", f"checkpoint={finished.folder}", f"out={tmp_path / 'b.png'}").code == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert weights_content(run) == weights_content(finished.folder) is not None


def test_a_damaged_teacher_is_refused_before_the_folder_is_made_with_what_to_do(runs):
    teacher = only(runs / "teacher_smoke")
    for path in (teacher / "checkpoints").glob("*.ckpt"):
        os.truncate(path, 5000)
    answer = train(runs, *QUICK)
    assert answer.code == 2
    assert f"remove {teacher} to have it trained anew" in answer.err
    assert not (runs / "smoke").exists()


def test_what_is_written_is_as_readable_as_any_new_file(finished, tmp_path):
    """safetensors makes its files for their owner alone."""
    set_of = digits()
    arrays = {key: getattr(set_of, key) for key in ("train_y", "heldout_y")}
    arrays |= {key: (getattr(set_of, key) + 1) / 2 for key in ("train_x", "heldout_x")}
    before = os.umask(0o022)
    try:
        write_arrays(tmp_path / "set", arrays, "set", 10, "digits")
        answer = decm("consolidate", f"checkpoint={finished.folder}", f"out={tmp_path / 'w.safetensors'}")
        assert answer.code == 0, answer.said
        write_whole(tmp_path / "text", lambda part: part.write_text("x"))
    finally:
        os.umask(before)
    files = [*(tmp_path / "set").iterdir(), tmp_path / "w.safetensors", tmp_path / "text"]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}
    assert len(files) == 4
    assert len(folder(str(tmp_path / "set"))) > 0


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    (tmp_path / "file").write_text("before")

    def fail(part):
        part.write_text("half")
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        write_whole(tmp_path / "file", fail)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
