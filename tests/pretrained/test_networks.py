"""What a stored configuration would call is decm's own, or refused before it is called."""

import json

import pytest
import torch
from safetensors.torch import save_file

from commands import decm
from decm.generator import Generator
from decm.pretrained.networks import build_network, call, check_targets

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


def test_torchs_optimizers_and_ones_own_packages_are_trusted(monkeypatch):
    config = {"optimizer": {"_target_": "torch.optim.AdamW"}, "network": {"_target_": "json.JSONDecoder"}}
    with pytest.raises(ValueError, match="DECM_TRUST=json"):
        check_targets(config, "a.ckpt", ["network"])
    monkeypatch.setenv("DECM_TRUST", "mine,json")
    check_targets(config, "a.ckpt", ["network", "optimizer"])
