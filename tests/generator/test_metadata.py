"""A model's config.json and results.json are checked before use: a mistake names the file and the key."""

import json
import re
import shutil

import pytest

from decm.generator.files import read_stored
from decm.generator.model import Generator

MISSING = "(missing)"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("data", {}, "data.extra is None"),
        ("data.extra", MISSING, "data.extra is None; expected a dict"),
        ("data.shape", MISSING, "data is no manifest ('shape' is missing)"),
        ("data.shape", [1, 8], "data is no manifest"),
        ("data.mean", ["a"], "data is no manifest"),
        ("data.surplus", 1, "data is no manifest"),
        ("step", MISSING, "step is None; expected a whole number"),
        ("weights", MISSING, "weights is None; expected a text"),
        ("code_version", MISSING, "code_version is None"),
        ("trained_on", [{}], "trained_on is [{}]; expected names of segments"),
        ("autoencoder", {"path": None}, "expected its kind in it"),
        ("autoencoder", {"kind": "f8d4", "path": 3}, "autoencoder.path is 3"),
        ("results", {"student": {"1": "x"}}, "results: student is {'1': 'x'}; expected numbers"),
        ("results", {"student": [1]}, "results: student is [1]"),
        ("results", {"student": {"1": 1.0}}, "results: metric is None"),
    ],
    ids=str,
)
def test_a_fact_that_is_missing_or_of_another_kind_is_named_with_its_file(exported, key, value, said):
    file = exported / "config.json"
    config = json.loads(file.read_text())
    *path, last = key.split(".")
    node = config[path[0]] if path else config
    node.pop(last, None)
    if value != MISSING:
        node[last] = value
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=re.escape(said)) as stop:
        Generator.from_pretrained(exported, device="cpu")
    assert str(file) in str(stop.value)


@pytest.mark.parametrize(("key", "value"), [("shape", [1, 16, 16]), ("num_classes", 12)])
def test_data_unlike_the_networks_are_refused(exported, key, value):
    config = json.loads((exported / "config.json").read_text())
    config["data"][key] = value
    (exported / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"{re.escape(str(exported))}: data\.{key} is .*; expected the network's"):
        Generator.from_pretrained(exported, device="cpu")


@pytest.mark.parametrize(
    ("text", "said"), [("{", "is damaged"), ("[]", "expected a dict"), ('{"student": 3}', "student")]
)
def test_damaged_results_of_a_run_are_named(finished, tmp_path, text, said):
    run = tmp_path / "run"
    shutil.copytree(finished.folder, run)
    assert read_stored(run).config["results"]["student"]
    (run / "results.json").write_text(text)
    with pytest.raises(ValueError, match=rf"{re.escape(str(run))}/results\.json.*{said}"):
        read_stored(run)


def test_a_model_may_be_saved_into_the_folder_where_one_is(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save_pretrained(".")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert Generator.from_pretrained(".", device="cpu").config["step"] == model.config["step"]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_model_is_not_saved_onto_a_file(model, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file is a file; expected a folder"):
        model.save_pretrained(tmp_path / place, overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"
