"""What is read back is what was saved, from every kind of file; and what is not whole, or newer, is refused."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from commands import decm
from decm.checkpoints.files import write_file
from decm.checkpoints.sharded import write_sharded
from decm.generator.checkpoints import find_checkpoint, read_checkpoint
from decm.generator.model import Generator

LABELS = [3, 1, 4, 1, 5]
DATA = Path(__file__).parents[1] / "data"


def test_every_kind_of_file_is_the_same_model(model, exported, finished, tmp_path):
    checkpoint = read_checkpoint(finished.folder)
    write_sharded(checkpoint, tmp_path / "sharded.ckpt", 0, lambda: None)
    answer = decm("consolidate", f"checkpoint={finished.folder}", f"out={tmp_path}/one.safetensors")
    assert answer.code == 0, answer.said
    expected = model.states(LABELS, 2)
    last = finished.folder / "checkpoints/last.ckpt"
    for path in (finished.folder, last, tmp_path / "sharded.ckpt", tmp_path / "one.safetensors", exported):
        assert torch.equal(Generator.from_pretrained(path, device="cpu").states(LABELS, 2), expected), path
    average, raw = (
        {key.removeprefix(part): value for key, value in checkpoint["state_dict"].items() if key.startswith(part)}
        for part in ("ema.", "student.")
    )
    assert all(torch.equal(value, average[key]) for key, value in model.network.state_dict().items())
    assert any(not torch.equal(value, raw[key]) for key, value in model.network.state_dict().items())


def test_saving_and_reading_back_is_bitwise(model, exported, tmp_path):
    again = Generator.from_pretrained(exported, device="cpu")
    assert again.states(LABELS, 4).numpy().tobytes() == model.states(LABELS, 4).numpy().tobytes()
    again.save_pretrained(tmp_path / "again")
    names = ["README.md", "config.json", "model.safetensors"]
    assert sorted(path.name for path in exported.iterdir()) == names
    assert all((exported / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in names)


def test_a_model_that_is_there_is_not_overwritten_unless_told(model, exported):
    (exported / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"holds model\.safetensors, config\.json, README\.md already"):
        model.save_pretrained(exported)
    assert (exported / "README.md").read_text() == "mine"
    model.save_pretrained(exported, overwrite=True)
    assert (exported / "README.md").read_text() != "mine"
    assert [path for path in exported.parent.iterdir() if path != exported] == []


def changed(folder, **changes):
    """The folder with other settings in its config.json."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def test_a_damaged_or_newer_or_foreign_folder_is_refused(exported, tmp_path):
    def refused(said, path=exported):
        with pytest.raises(ValueError, match=said):
            Generator.from_pretrained(path, device="cpu")

    other, weights = tmp_path / "other", exported / "model.safetensors"
    shutil.copytree(exported, other)
    refused("schema version 2; this decm reads up to 1", changed(other, schema_version=2))
    refused("magic.* is unknown", changed(other, schema_version=1, samplers={"1": "magic"}))
    refused("lacks network", changed(other, samplers={}, network=None))
    refused("has no schema_version", changed(other, schema_version=None))
    (other / "config.json").write_text("{")
    refused("cannot be read", other)
    save_file({**load_file(weights), "out.bias": torch.zeros(1)}, weights)
    refused("differs from what config.json describes")
    refused("pass its folder", weights)
    weights.unlink()
    refused("is missing")
    refused("does not exist", tmp_path / "no" / "where")
    refused("has no checkpoints/last.ckpt", tmp_path)


def test_an_exported_folder_is_named_where_a_run_is_needed(tmp_path):
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="is a folder of `decm export`"):
        find_checkpoint(tmp_path)


def test_pickled_weights_are_not_looked_at(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no checkpoints/last\.ckpt"):
        Generator.from_pretrained(tmp_path)


@pytest.fixture
def hub(exported, tmp_path, monkeypatch):
    """A cache of the hub's with one repository, and no network."""
    import huggingface_hub.constants

    repository, commit = tmp_path / "hub/models--someone--digits", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    shutil.copytree(exported, repository / "snapshots" / commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_an_id_of_the_hub_is_the_model_that_was_fetched(hub, model):
    fetched = Generator.from_pretrained("someone/digits", device="cpu")
    assert torch.equal(fetched.states(LABELS), model.states(LABELS))
    with pytest.raises(ValueError, match="'someone/else' does not exist here, and the hub does not give it"):
        Generator.from_pretrained("someone/else")
    for path in ("a/b/nowhere.ckpt", "./nowhere", "../nowhere", ".hidden/nowhere"):
        with pytest.raises(ValueError, match=r"nowhere(\.ckpt)?' does not exist; expected"):
            Generator.from_pretrained(path)
    with pytest.raises(ValueError, match="the hub does not give it"):
        Generator.from_pretrained("some--one/digits")  # which the hub's own client refuses


def test_without_the_hubs_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"decm\[hub\]"):
        Generator.from_pretrained("someone/digits")


def test_a_revision_of_what_is_here_is_refused(exported):
    with pytest.raises(ValueError, match="revision='main' has no effect"):
        Generator.from_pretrained(exported, revision="main")


@pytest.fixture
def frozen(tmp_path):
    """A checkpoint that decm wrote once, of schema version 1, in a folder of its own; and the states that it gave."""
    shutil.copy(DATA / "frozen_1.ckpt", tmp_path)
    return tmp_path / "frozen_1.ckpt", load_file(DATA / "frozen_1.safetensors")


def test_an_old_checkpoint_gives_the_samples_that_it_gave(frozen):
    path, expected = frozen
    model = Generator.from_pretrained(path, device="cpu")
    raw = read_checkpoint(path)["state_dict"]
    assert model.sampler(4) == "consistency"
    for name, states in expected.items():
        found = model.states(range(10), steps=int(name.removeprefix("nfe")), seed=0)
        torch.testing.assert_close(found, states, atol=1e-5, rtol=0)
    model.network.load_state_dict({key.removeprefix("student."): raw[key] for key in raw if key.startswith("student.")})
    assert (model.states(range(10), seed=0) - expected["nfe1"]).abs().max() > 1e-3  # the last step's, not the average


def test_an_old_checkpoint_is_evaluated_and_sampled(frozen, cached, monkeypatch):
    path, _ = frozen
    monkeypatch.chdir(cached.parent)  # its settings have runs=runs, where the classifier is
    settings = ["nfe=[1]", "num_samples=20", "device=cpu"]
    answer = decm("evaluate", f"checkpoint={path}", *settings)
    assert answer.code == 0, answer.said
    (results,) = [json.loads(file.read_text()) for file in path.parent.glob("evaluation_*.json")]
    assert results["step"] == 600
    assert results["student"]["1"] > 0
    assert decm("sample", f"checkpoint={path}", f"out={path.parent / 'a.png'}", "device=cpu").code == 0


@pytest.mark.parametrize("key", ["decm_config", "manifest", "state_dict"])
def test_a_checkpoint_that_lacks_what_decm_writes_is_refused_by_name(frozen, tmp_path, key):
    checkpoint = read_checkpoint(frozen[0])
    del checkpoint[key]
    write_file(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=key):
        Generator.from_pretrained(tmp_path / "other.ckpt")
