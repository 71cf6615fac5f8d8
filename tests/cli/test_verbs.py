"""What is there, what is missing, and what can go: `decm runs`, `decm doctor`, `decm clean`."""

import fcntl
import json
import shutil

import pytest
import yaml

from commands import decm, results
from decm.runs.locks import LOCK
from decm.runs.state import human, size_of


def lines(answer):
    assert answer.code == 0, answer.said
    return answer.out.splitlines()


@pytest.fixture
def three(finished, tmp_path):
    """A finished run, a better one of a sweep, and one that is not finished; and their root."""
    root = tmp_path / "runs"
    done = shutil.copytree(finished.folder, root / "smoke" / "2020-01-01_00-00-00", symlinks=True)
    better = shutil.copytree(done, root / "smoke" / "multirun" / "sweep" / "0", symlinks=True)
    early = shutil.copytree(done, root / "smoke" / "2021-01-01_00-00-00", symlinks=True)
    (early / "results.json").unlink()
    figures = results(done)
    figures["student"]["1"] -= 1.0
    (better / "results.json").write_text(json.dumps(figures))
    return root, done, better, early


def line_of(answer, folder):
    (found,) = [line for line in lines(answer) if str(folder) in line]
    return found


def test_runs_are_listed_with_state_step_and_figures(three):
    root, done, better, early = three
    answer = decm("runs", f"runs={root}")
    assert len(lines(answer)) == 4
    first = line_of(answer, done.relative_to(root))
    value = results(done)["student"]
    assert "finished" in first
    assert " 6/6 " in first
    assert f"1: {value['1']:.3f}  2: {value['2']:.3f}" in first  # the second figure is as good as the other's
    assert f"1: {value['1'] - 1:.3f}*  2:" in line_of(answer, better.relative_to(root))
    assert "unfinished" in line_of(answer, early.relative_to(root))
    assert "1:" not in line_of(answer, early.relative_to(root))


def test_a_run_that_a_process_has_is_running(three):
    root, _, _, early = three
    with (early / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "running" in line_of(decm("runs", f"runs={root}"), early.relative_to(root))


def test_runs_of_one_experiment_or_none(three, tmp_path):
    root, *_ = three
    assert len(lines(decm("runs", f"runs={root}", "name=smoke"))) == 4
    assert "No run of experiment other" in decm("runs", f"runs={root}", "name=other").out
    (tmp_path / "empty").mkdir()
    assert "No run below" in decm("runs", f"runs={tmp_path / 'empty'}").out
    answer = decm("runs", f"runs={tmp_path / 'missing'}")
    assert (answer.code, "is no folder" in answer.err) == (2, True)


def test_sizes_are_of_files_and_not_of_links(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 1500)
    (tmp_path / "b").symlink_to("a")
    assert (size_of(tmp_path), size_of(tmp_path / "a")) == (1500, 1500)
    assert [human(size) for size in (0, 999, 1500, 20_400_000, 3e12)] == ["0 B", "999 B", "1.5 kB", "20 MB", "3.0 TB"]


@pytest.mark.slow
def test_the_doctor_names_versions_devices_disk_and_missing_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "VIRTUAL_imagenet256_labeled.npz").touch()
    answer = decm("doctor", f"runs={tmp_path}")
    said = lines(answer)
    import torch

    assert any(line.split() == ["torch", torch.__version__.split("+")[0]] for line in said)
    assert "  mode offline" in said
    assert any("CPU cores" in line for line in said)
    assert any(line.startswith(f"  {tmp_path}: ") and line.endswith("free") for line in said)
    files = {line.split("=")[0].split()[-1]: line.split()[0] for line in said[said.index("W&B") :] if "=" in line}
    assert files["evaluation.protocol.reference"] == "there"
    for key in ("data.path", "teacher.path", "evaluation.protocol.autoencoder.path", "evaluation.protocol.weights"):
        assert files[key] == "MISSING"
    assert lines(decm("doctor", "name=decm_digits"))[-1] == "  it names none"
    assert decm("doctor", "name=nothing").code == 2


def tree(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.name != LOCK)


def with_wandb(folder, synced=False):
    run = folder / "wandb" / "offline-run-1-abc"
    run.mkdir(parents=True)
    (run / "run-abc.wandb").write_bytes(b"x" * 1000)
    if synced:
        (run / "run-abc.wandb.synced").touch()


def test_clean_says_what_could_go_and_removes_nothing_by_itself(three):
    root, done, better, early = three
    for folder in (done, better, early):
        with_wandb(folder, synced=folder == better)
    before = tree(root)
    answer = decm("clean", f"runs={root}", "unsent=true")
    said = lines(answer)
    assert tree(root) == before
    for folder in (done, better):
        assert any(str(folder / "checkpoints" / "step_00000004.ckpt") in line for line in said)
    assert not any(str(early) in line for line in said)
    assert [line.endswith("(not uploaded)") for line in said if "wandb" in line] == [True, False]
    assert "4 places could go; dry_run=false removes them" in said[-1]


def test_clean_removes_old_checkpoints_and_wandb_of_finished_runs_alone(three):
    root, done, better, early = three
    for folder in (done, better, early):
        with_wandb(folder, synced=True)
    (better / "checkpoints" / "best.ckpt").symlink_to("step_00000004.ckpt")
    before, kept = tree(root), tree(early)
    answer = decm("clean", f"runs={root}", "dry_run=false", "yes=true")
    assert answer.code == 0, answer.said
    gone = set(before) - set(tree(root))
    assert {name.split("/wandb")[0] for name in gone if "wandb" in name} == {
        str(folder.relative_to(root)) for folder in (done, better)
    }
    assert {name for name in gone if "wandb" not in name} == {
        str((done / "checkpoints" / "step_00000004.ckpt").relative_to(root))
    }
    assert tree(early) == kept
    assert (done / "checkpoints" / "last.ckpt").resolve().is_file()
    assert (done / "results.json").is_file()
    assert "Nothing to remove" in decm("clean", f"runs={root}").out


@pytest.mark.parametrize(("setting", "word"), [("wandb=false", "wandb"), ("checkpoints=false", "step_")])
def test_clean_leaves_what_it_is_told_to(three, setting, word):
    root, done, *_ = three
    with_wandb(done, synced=True)
    said = lines(decm("clean", f"runs={root}", setting))
    assert not any(word in line for line in said)
    assert len(said) >= 2


def test_clean_removes_wandb_folders_that_were_not_uploaded_only_where_it_is_told_to(three):
    root, done, better, _ = three
    with_wandb(done)
    with_wandb(better, synced=True)
    answer = decm("clean", f"runs={root}", "dry_run=false", "yes=true")
    assert "not uploaded stay: 1" in answer.out
    assert ((done / "wandb").is_dir(), (better / "wandb").is_dir()) == (True, False)
    assert decm("clean", f"runs={root}", "dry_run=false", "yes=true", "unsent=true").code == 0
    assert not (done / "wandb").exists()


@pytest.mark.parametrize("level", ["run", "experiment", "checkpoints"])
def test_clean_follows_no_link_out_of_its_folder(three, tmp_path, level):
    root, done, better, _ = three
    inside = {"run": root / "smoke" / "linked", "experiment": root / "other"}.get(level, done / "checkpoints")
    outside = shutil.copytree(inside if level == "checkpoints" else better, tmp_path / "outside", symlinks=True)
    if level == "experiment":
        (tmp_path / "elsewhere").mkdir()
        outside = outside.rename(tmp_path / "elsewhere" / "run")
    if level == "checkpoints":
        shutil.rmtree(inside)
    inside.symlink_to(outside.parent if level == "experiment" else outside)
    before = tree(tmp_path / "outside"), tree(tmp_path / "elsewhere")
    answer = decm("clean", f"runs={root}", "dry_run=false", "yes=true")
    assert (answer.code, (tree(tmp_path / "outside"), tree(tmp_path / "elsewhere"))) == (0, before)
    assert str(better / "checkpoints" / "step_00000004.ckpt") in answer.out


def test_clean_leaves_what_an_unfinished_run_starts_from(three):
    root, done, better, early = three
    config = yaml.safe_load((early / "config.yaml").read_text())
    for place in (done, done / "checkpoints" / "step_00000004.ckpt"):
        (early / "config.yaml").write_text(yaml.safe_dump(config | {"warm_start": str(place)}))
        said = lines(decm("clean", f"runs={root}"))
        assert not any(str(done) in line for line in said)
        assert any(str(better) in line for line in said)


def test_clean_asks_where_a_person_can_answer(three, monkeypatch):
    root, *_ = three
    answer = decm("clean", f"runs={root}", "dry_run=false")
    assert (answer.code, "set yes=true" in answer.err) == (2, True)
    before = tree(root)
    for reply, goes in (("n", False), ("", False), ("y", True)):
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda question, reply=reply: reply)
        assert decm("clean", f"runs={root}", "dry_run=false").code == 0
        assert (tree(root) != before) == goes


def test_clean_leaves_a_finished_run_that_a_process_has(three):
    root, done, better, _ = three
    with (done / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        said = lines(decm("clean", f"runs={root}"))
    assert not any(str(done) in line for line in said)
    assert any(str(better) in line for line in said)


@pytest.mark.parametrize("teacher", ["file", "folder", "relative"])
def test_clean_leaves_the_teacher_of_a_run_that_is_not_finished(three, teacher):
    """Also where the run was started elsewhere, with a path from there."""
    root, done, better, early = three
    config = yaml.safe_load((early / "config.yaml").read_text())
    path = done if teacher == "folder" else done / "checkpoints" / "step_00000004.ckpt"
    path = path.relative_to(root.parent) if teacher == "relative" else path
    config["teacher"] |= {"kind": "checkpoint", "path": str(path)}
    (early / "config.yaml").write_text(yaml.safe_dump(config))
    said = lines(decm("clean", f"runs={root}"))
    assert not any(str(done) in line for line in said)
    assert any(str(better) in line for line in said)


def test_clean_leaves_the_trained_teachers_of_a_running_run(three):
    root, _, _, early = three
    shutil.copytree(root / "smoke" / "2020-01-01_00-00-00", root / "teacher_smoke" / "x", symlinks=True)
    assert any("teacher_smoke" in line for line in lines(decm("clean", f"runs={root}")))
    with (early / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        said = lines(decm("clean", f"runs={root}"))
    assert not any("teacher_smoke" in line for line in said)
    assert len(said) == 3


def test_clean_leaves_all_checkpoints_where_none_is_the_last(three):
    root, done, *_ = three
    (done / "checkpoints" / "last.ckpt").unlink()
    assert not any(str(done) in line for line in lines(decm("clean", f"runs={root}")))
