"""Data sets and weights are known by what they hold, wherever they lie."""

import dataclasses
import shutil

import pytest
import torch

from commands import TINY, only, results, train
from decm.data.arrays import write_arrays
from decm.data.manifest import read_manifest
from decm.data.published import ARCHIVE, BATCHES, CIFAR, IDX, SYSTEM
from decm.experiment.teachers import teacher_config
from decm.runs.contents import contents
from decm.runs.folders import other_settings, same_settings
from decm.settings.composition import add_contents, compose, plain, teacher_hash
from helpers import seeded
from settings.test_bad_input import assert_one_sentence


def make_set(path, seed=0):
    """A prepared set of random 8x8 images of ten classes."""
    random = seeded(seed)
    arrays = {}
    for split, num in (("train", 128), ("heldout", 16)):
        arrays[f"{split}_x"] = torch.rand(num, 1, 8, 8, generator=random)
        arrays[f"{split}_y"] = torch.arange(num) % 10
    write_arrays(path, arrays, "random", 10, "here")
    return path


def settings_of(*overrides):
    """(plain settings with their contents, hash of the teacher)."""
    cfg = compose("train", [*TINY, *overrides])
    add_contents(cfg)
    return plain(cfg), teacher_hash(plain(teacher_config(cfg))) if cfg.teacher.kind == "auto" else None


@pytest.mark.slow
def test_the_same_data_under_another_path_are_the_same_settings_and_the_same_teacher(tmp_path, monkeypatch):
    """Relative and absolute, copied and linked; other data under the same path are others."""
    monkeypatch.chdir(tmp_path)
    make_set(tmp_path / "a")
    shutil.copytree("a", "copied")
    (tmp_path / "linked").symlink_to("a")
    first, teacher = settings_of("data=folder", "data.path=a")
    for path in (tmp_path / "a", "copied", "linked", "a/../a"):
        other = settings_of("data=folder", f"data.path={path}")
        assert same_settings(first, other[0])
        assert other[1] == teacher
    make_set(tmp_path / "a", seed=1)
    others, another = settings_of("data=folder", "data.path=a")
    (line,) = other_settings(first, others)
    assert line.startswith("data.path is a (of content ")
    assert another != teacher


def test_data_that_are_normalized_otherwise_are_other_data(tmp_path):
    """Though the stored pixels are the same."""
    folder = make_set(tmp_path / "a")
    before, teacher = settings_of("data=folder", f"data.path={folder}")
    dataclasses.replace(read_manifest(folder), mean=(0.25,)).write(folder)
    after, another = settings_of("data=folder", f"data.path={folder}")
    assert not same_settings(before, after)
    assert teacher != another


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        "warm_start",
        "teacher.path",
        "evaluation.protocol.reference",
        "evaluation.protocol.weights",
        "evaluation.protocol.autoencoder.path",
        "evaluation.protocol.dinov2.reference",
        "evaluation.protocol.dinov2.weights",
    ],
)
def test_weights_and_statistics_are_known_by_their_bytes(setting, tmp_path):
    for name, content in (("one", b"a"), ("copy", b"a"), ("two", b"b")):
        (tmp_path / name).write_bytes(content)
    more = ["evaluation=images", "evaluation.protocol.reference=x"] if "protocol" in setting else []
    more += ["teacher=weights"] if setting == "teacher.path" else []
    one, copy, two, gone = (
        settings_of(*more, f"{setting}={tmp_path / name}")[0] for name in ("one", "copy", "two", "gone")
    )

    def differ(a, b):
        return other_settings(a, b, lambda settings: {k: v for k, v in settings.items() if k != "contents"})

    assert differ(one, copy) == []
    assert [line.split(" is ")[0] for line in differ(one, two)] == [setting]
    assert [line.split(" is ")[0] for line in differ(one, gone)] == [setting]  # of which nothing is known


def test_a_run_is_known_by_its_checkpoint_wherever_it_lies(finished, tmp_path):
    copy = shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    paths = [finished.folder, copy, copy / "checkpoints/last.ckpt", finished.teacher]
    run, moved, file, other = (settings_of(f"warm_start={path}")[0] for path in paths)
    assert same_settings(run, moved)
    assert same_settings(run, file)
    assert not same_settings(run, other)


def test_synthetic_data_are_the_same_made_or_not_and_in_any_folder(tmp_path):
    def smoke(runs):
        cfg = compose("train", ["experiment=decm_imagenet_smoke", f"runs={tmp_path / runs}"])
        add_contents(cfg)
        return plain(cfg), teacher_hash(plain(teacher_config(cfg)))

    (before, teacher), (after, moved) = smoke("a"), smoke("b")
    assert before["data"]["path"] != after["data"]["path"]
    assert same_settings(before, after)
    assert teacher == moved


@pytest.mark.slow
def test_a_run_goes_on_with_its_data_under_another_path(tmp_path):
    """With the same teacher; other data under the same path are refused by name."""
    runs, data = tmp_path / "runs", make_set(tmp_path / "job1")
    short = ["data=folder", "max_steps=2", "evaluation.nfe=[1]"]
    first = train(runs, *short, f"data.path={data}")
    assert first.code == 0, first.said
    folder = only(runs / "smoke")
    (folder / "results.json").unlink()
    data.rename(tmp_path / "job2")
    again = train(runs, *short, f"data.path={tmp_path / 'job2'}", "resume=auto")
    assert again.code == 0, again.said
    assert f"Continuing {folder} at step 2" in again.out
    assert results(only(runs / "smoke"))["teacher_reused"] is True
    make_set(tmp_path / "job2", seed=1)
    refused = train(runs, *short, f"data.path={tmp_path / 'job2'}", f"resume={folder}")
    assert_one_sentence(refused, "data.path", "of content")


def idx_folder(folder, mark=b""):
    folder.mkdir(parents=True)
    for stem in IDX.values():
        (folder / stem).write_bytes(stem.encode() + mark)
    return folder


def known(which, path):
    return contents({"data": {"_target_": f"decm.data.sets.{which}", "path": path}}).get("data.path")


def test_a_known_set_is_known_by_its_files_wherever_they_lie(tmp_path, monkeypatch):
    """Their folders have no manifest; other pictures under the same path are another set."""
    one, other = idx_folder(tmp_path / "a"), idx_folder(tmp_path / "root" / "MNIST" / "raw")
    first = known("idx.mnist", str(one))
    assert first == known("idx.mnist", str(tmp_path / "root")) is not None
    idx_folder(tmp_path / "root" / "FashionMNIST" / "raw", b"clothes")  # beside it, and not read
    assert first == known("idx.mnist", str(tmp_path / "root"))
    assert first != known("idx.fashion_mnist", str(tmp_path / "root"))
    monkeypatch.setitem(SYSTEM, "fashion_mnist", one)
    assert first == known("idx.fashion_mnist", None)
    (other / IDX["heldout_y"]).write_bytes(b"others")
    assert first != known("idx.mnist", str(tmp_path / "root"))
    (other / IDX["heldout_y"]).unlink()
    assert known("idx.mnist", str(tmp_path / "root")) is None


def test_an_archive_and_a_folder_of_batches_are_known_by_their_files(tmp_path):
    archive = tmp_path / ARCHIVE
    archive.write_bytes(b"one")
    first = known("cifar.cifar10", str(archive))
    assert first == known("cifar.cifar10", str(tmp_path)) is not None
    archive.write_bytes(b"two!")
    assert first != known("cifar.cifar10", str(archive))
    (tmp_path / CIFAR).mkdir()
    for names in BATCHES.values():
        for name in names:
            (tmp_path / CIFAR / name).write_bytes(name.encode())
    batches = known("cifar.cifar10", str(tmp_path / CIFAR))
    assert batches == known("cifar.cifar10", str(tmp_path)) is not None
    (tmp_path / CIFAR / "data_batch_3").unlink()
    assert known("cifar.cifar10", str(tmp_path / CIFAR)) is None
