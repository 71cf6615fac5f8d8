"""A set of latents that cannot be trained on: one clear sentence, exit code 2, and no run begun in vain."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from commands import decm
from decm.data.index import index_path, read_index
from latent_runs import SETTINGS, synthetic_set
from settings.test_bad_input import assert_one_sentence, ordinary_permissions

NAN = float("nan")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return synthetic_set(tmp_path_factory.mktemp("sets") / "made")


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "set")


def train(path, *overrides, kind="latents"):
    return decm("train", *SETTINGS, f"data={kind}", f"data.path={path}", f"runs={path}-runs", *overrides)


def first_shard(folder):
    return folder / "shard-000000.tar"


def edit(folder, **facts):
    """Other facts in a manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **facts}))


@pytest.mark.parametrize("kind", ["latents", "latents_stream"])
@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"shape": [8, 8, 8]}, "expected 8 finite numbers"),
        ({"shape": [4, 8]}, "not a manifest"),
        ({"mean": [NAN] * 4}, "mean is [nan, nan, nan, nan]; expected 4 finite numbers, one a channel"),
        ({"std": [1.0] * 2}, "std is [1.0, 1.0]; expected 4"),
        ({"std": [0.0] * 4}, "expected numbers above 0"),
        ({"std": "wide"}, "must be real number"),
        ({"format": 3}, "not a manifest"),
        ({"num_classes": 20}, "20 classes, but the network expects"),
        ({"split": {"train": 255}}, "255"),
        ({"split": {}}, "does not list its shards"),
        ({"extra": {"kind": "latents"}}, "does not list its shards"),
        ({"extra": {}}, "not one of latents"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(folder, kind, facts, said):
    edit(folder, **facts)
    assert_one_sentence(train(folder, kind=kind), said, str(folder) if "num_classes" not in facts else "set")


@pytest.mark.parametrize("kind", ["latents", "latents_stream"])
def test_a_path_that_is_no_set_is_refused(tmp_path, kind):
    (tmp_path / "file").write_text("a file")
    (tmp_path / "empty").mkdir()
    assert_one_sentence(train(tmp_path / "file", kind=kind), "is a file", "data.path")
    assert_one_sentence(train(tmp_path / "empty", kind=kind), "has no manifest.json", "`decm latents encode")
    assert_one_sentence(train(tmp_path / "no", kind=kind), "does not exist", "data.path")


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"null", bytes(range(256))])
def test_a_manifest_that_is_none_is_refused(folder, content):
    (folder / "manifest.json").write_bytes(content)
    assert_one_sentence(train(folder), "manifest.json is not a manifest", "decm latents")


def test_labels_beyond_the_classes_are_refused(folder):
    edit(folder, num_classes=3, class_names=None)
    fitting = ["network.num_classes=3"]
    assert_one_sentence(train(folder, *fitting), "has labels 0 to 9, its manifest says 3 classes; expected 0 to 2")
    assert_one_sentence(train(folder, *fitting, kind="latents_stream"), "labels that are not below num_classes=3")


def test_latents_that_are_not_finite_are_refused(folder):
    shard = first_shard(folder)
    replace(read_index(shard), finite=False).save(shard)
    assert_one_sentence(train(folder), "has latents that are not finite, in shard-000000.tar")
    with shard.open("r+b") as file:
        file.seek(int(read_index(shard).records["latents"][0]))
        file.write(np.full(4, np.inf, np.float16).tobytes())
    assert_one_sentence(train(folder, kind="latents_stream"), "shard-000000.tar", "latents that are not finite")


def test_an_index_of_another_version_is_refused(folder):
    path = index_path(first_shard(folder))
    with np.load(path) as stored:
        facts = {name: stored[name] for name in stored.files if name != "finite"}
    with path.open("wb") as file:
        np.savez(file, **facts)
    assert_one_sentence(train(folder), f"{path.name} is not a readable index", "Delete it: it is made again")


def test_damage_is_not_hidden_by_an_index_that_was_made_from_it(folder):
    """Skipping leaves out what differs from the index: an index made of damaged bytes would let them pass."""
    shard = first_shard(folder)
    offset = int(read_index(shard).records["latents"][0])
    index_path(shard).unlink()
    with shard.open("r+b") as file:
        file.seek(offset + 1)
        file.write(b"\x01")
    for how in ("raise", "skip"):
        answer = train(folder, f"data.on_corrupt={how}")
        assert_one_sentence(answer, "shard-000000.tar is not the one", "Copy both")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.flips=true"], "Could not override 'data.flips'"),
        (["data.on_corrupt=ignore"], "on_corrupt='ignore' is unknown; expected raise or skip"),
        (["network.in_channels=16"], "the network expects (16, 8, 8)"),
        (["data.flip=maybe"], "not a valid bool"),
    ],
)
def test_a_setting_of_the_data_that_cannot_be(made, overrides, said):
    answer = train(made, *overrides)
    assert answer.code == 2
    assert said in answer.err
    assert "Traceback" not in answer.said


def test_a_stream_has_no_damaged_records_to_leave_out(made):
    answer = train(made, "data.on_corrupt=skip", kind="latents_stream")
    assert answer.code == 2
    assert "on_corrupt" in answer.err


@pytest.mark.parametrize("what", ["manifest.json", "shard-000000.index.npz", "shard-000000.tar", "."])
def test_what_this_user_may_not_read_is_named(folder, what):
    closed = folder / what
    closed.chmod(0o000)
    with ordinary_permissions():
        answer = train(folder)
    closed.chmod(0o700)
    assert_one_sentence(answer, "Permission denied", str(closed))
