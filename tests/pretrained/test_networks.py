"""What a stored configuration would call is decm's own, or refused before it is called."""

import json

import pytest
import torch
import yaml
from safetensors.torch import save_file

from commands import decm
from decm.cli.config import conf_dir
from decm.generator import Generator
from decm.pretrained.networks import CALLED, build_network, call, check_targets, targets

THEFT = "decm.training.durable.shutil.rmtree"  # of what decm imports, not decm's


@pytest.fixture
def victim(tmp_path):
    (tmp_path / "victim").mkdir()
    return tmp_path / "victim"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"_target_": "pathlib.Path.touch", "self": "x"}, r"would call pathlib\.Path\.touch"),
        ({"_target_": THEFT, "path": "x"}, r"which is shutil\.rmtree"),
        ({"_target_": "decm.cli.main.os.system", "command": "true"}, r"would call decm\.cli\.main\.os\.system"),
        ({"_target_": "decm.networks.mlp.MLP", "in_channels": {"_target_": "os.getpid"}}, r"would call os\.getpid"),
        ({"_target_": "decm.data.arrays.folder", "path": "x"}, "is no network"),
        ({"_target_": "decm.networks.mlp.Nothing"}, "does not have"),
        ({"_target_": "decm.networks.mlp.MLP", "depht": 1}, "does not understand its settings"),
        ({"in_channels": 2}, "without `_target_`"),
    ],
)
def test_a_network_of_anything_else_is_refused(settings, said):
    def build():
        check_targets({"network": settings}, "a.json", ["network"])
        return build_network(settings, "a.json")

    with pytest.raises(ValueError, match=said):
        build()


def test_a_nested_call_is_refused_where_it_would_be_made(victim):
    nested = {"_target_": "decm.networks.mlp.MLP", "in_channels": {"_target_": THEFT, "path": str(victim)}}
    with pytest.raises(ValueError, match="nested"):
        build_network(nested, "a.json")
    assert victim.is_dir()


def test_a_function_that_decm_only_imports_is_not_called(victim, tmp_path, monkeypatch):
    """By Generator and by the verbs; without the check it would be."""
    stored = {"network": {"_target_": "decm.networks.mlp.MLP"}, "data": {"_target_": THEFT, "path": str(victim)}}
    file = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(1)}, file, {"decm_config": json.dumps(stored), "global_step": "1"})
    with pytest.raises(ValueError, match=r"which is shutil\.rmtree"):
        Generator.from_pretrained(file)
    answer = decm("sample", f"checkpoint={file}", f"out={tmp_path / 'a.png'}")
    assert answer.code == 2
    assert "which is shutil.rmtree" in answer.err
    assert victim.is_dir()
    monkeypatch.setenv("DECM_TRUST", "shutil")
    call(stored["data"], file)
    assert not victim.exists()


WRITE = {"_target_": "decm.training.durable.write_text", "path": "x", "text": "y"}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"network": {"_target_": "decm.networks.mlp.MLP", "in_channels": WRITE}}, "write_text is no network"),
        (
            {"network": {"_target_": "decm.networks.mlp.MLP", "in_channels": {"_target_": "decm.networks.mlp.MLP"}}},
            "nested",
        ),
        ({"network": "${foo}", "foo": {"_target_": "decm.cli.main.os.system"}}, r"reference '\$\{foo\}'"),
        ({"data": {"_target_": "decm.cli.runs.open_folder", "resume": None}}, "open_folder is no data set"),
        ({"data": {"_target_": "decm.networks.mlp.MLP"}}, "is no data set"),
        ({"evaluation": {"bench": WRITE}}, "write_text is no bench"),
    ],
)
def test_decms_own_functions_are_called_for_what_they_are_alone(config, said):
    """Some of them write and remove files."""
    with pytest.raises(ValueError, match=said):
        check_targets(config, "a.ckpt", [part for part in ("network", "data", "evaluation") if part in config])


def test_what_the_options_name_may_be_called():
    """Networks, data sets and benches of conf/: all of them, and nothing else."""
    found = {part: set() for part in CALLED}
    for part, names in found.items():
        for file in (conf_dir() / part).glob("*.yaml"):
            names |= set(targets(yaml.safe_load(file.read_text())))
    assert found == {part: set(names) for part, (_, names) in CALLED.items()}


def test_a_checkpoint_of_someone_else_writes_no_file(tmp_path):
    """By the verbs: the attack goes through a setting of the network."""
    file, prey = tmp_path / "a.safetensors", tmp_path / "prey"
    network = {"_target_": "decm.networks.mlp.MLP", "in_channels": {**WRITE, "path": str(prey)}}
    save_file({"a": torch.zeros(1)}, file, {"decm_config": json.dumps({"network": network}), "global_step": "1"})
    answer = decm("sample", f"checkpoint={file}", f"out={tmp_path / 'a.png'}")
    assert (answer.code, prey.exists()) == (2, False)
    assert "is no network" in answer.err


def test_torchs_optimizers_and_ones_own_packages_are_trusted(monkeypatch):
    config = {"optimizer": {"_target_": "torch.optim.AdamW"}, "network": {"_target_": "json.JSONDecoder"}}
    with pytest.raises(ValueError, match="DECM_TRUST=json"):
        check_targets(config, "a.ckpt", ["network"])
    monkeypatch.setenv("DECM_TRUST", "mine,json")
    check_targets(config, "a.ckpt", ["network"])
