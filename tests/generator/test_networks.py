"""What a stored configuration would call is decm's own, or refused before it is called."""

import json

import pytest
import torch
import yaml
from safetensors.torch import save_file

import decm.data as decm_data
import decm.networks as decm_networks
from commands import NO_TEACHER, decm, only, train
from decm.generator.model import Generator
from decm.generator.networks import PARTS, build_network, call, check_targets, is_part, locate, targets
from decm.settings.composition import conf_dir

THEFT = "decm.checkpoints.durable.shutil.rmtree"  # of what decm imports, not decm's


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


def consolidated(file, settings):
    """A file as `decm consolidate` writes it, of someone else's settings."""
    stored = {"decm_config": json.dumps(settings), "manifest": "{}", "global_step": "1", "weights": "ema"}
    save_file({"a": torch.zeros(1)}, file, {**stored, "code_version": "0"})
    return file


def test_a_function_that_decm_only_imports_is_not_called(victim, tmp_path, monkeypatch):
    """By Generator and by the verbs; without the check it would be."""
    stored = {"network": {"_target_": THEFT, "path": str(victim)}}
    file = consolidated(tmp_path / "a.safetensors", stored)
    with pytest.raises(ValueError, match=r"which is shutil\.rmtree"):
        Generator.from_pretrained(file)
    answer = decm("sample", f"checkpoint={file}", f"out={tmp_path / 'a.png'}")
    assert answer.code == 2
    assert "which is shutil.rmtree" in answer.err
    assert victim.is_dir()
    monkeypatch.setenv("DECM_TRUST", "shutil")
    call(stored["network"], file)
    assert not victim.exists()


WRITE = {"_target_": "decm.checkpoints.durable.write_text", "path": "x", "text": "y"}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"network": {"_target_": "decm.networks.mlp.MLP", "in_channels": WRITE}}, "write_text is no network"),
        (
            {"network": {"_target_": "decm.networks.mlp.MLP", "in_channels": {"_target_": "decm.networks.mlp.MLP"}}},
            "nested",
        ),
        ({"network": "${foo}", "foo": {"_target_": "decm.networks.mlp.MLP"}}, "expected the settings of a network"),
        ({"data": {"_target_": "decm.runs.folders.open_folder", "resume": None}}, "open_folder is no data set"),
        ({"data": {"_target_": "decm.networks.mlp.MLP"}}, "is no data set"),
        ({"evaluation": {"protocol": WRITE}}, "write_text is no protocol"),
    ],
)
def test_decms_own_functions_are_called_for_what_they_are_alone(config, said):
    """Some of them write and remove files."""
    with pytest.raises(ValueError, match=said):
        check_targets(config, "a.ckpt", [part for part in ("network", "data", "evaluation") if part in config])


@pytest.mark.parametrize("part", PARTS)
def test_what_the_options_name_may_be_called(part):
    """Networks, data sets and protocols of conf/, each as what it is and as nothing else."""
    names = {t for file in (conf_dir() / part).glob("*.yaml") for t in targets(yaml.safe_load(file.read_text()))}
    assert names
    for name in names:
        assert [other for other in PARTS if is_part(other, locate(name, "conf"))] == [part], name


@pytest.mark.parametrize(
    "name",
    [
        "decm.data.arrays.write_arrays",
        "decm.data.manifest.read_manifest",
        "decm.data.making.latent_sets.finish_set",
        "decm.data.loader.IndexLoader",
        "decm.networks.autoencoder.Autoencoder",
        "decm.networks.layers.Block",
        "decm.experiment.build.build_protocol",
        "decm.generator.decode.build_autoencoder",
        "decm.runs.folders.open_folder",
        "decm.training.module.DistillationModule",
    ],
)
def test_what_is_no_part_is_called_as_none(name):
    assert [part for part in PARTS if is_part(part, locate(name, "conf"))] == []


def test_a_network_and_a_data_set_that_are_added_to_decm_are_trained_sampled_and_evaluated(
    cached, tmp_path, monkeypatch
):
    """Two new modules and no list to put them on."""
    (tmp_path / "added_network.py").write_text(
        "from decm.networks.dit import LightningDiT\nclass Added(LightningDiT): ...\n"
    )
    (tmp_path / "added_data.py").write_text(
        "from decm.data import arrays\ndef added(heldout: int, split_seed: int) -> arrays.ArrayDataset:\n"
        "    return arrays.digits(heldout, split_seed)\n"
    )
    for package in (decm_networks, decm_data):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    added = ["network._target_=decm.networks.added_network.Added", "data._target_=decm.data.added_data.added"]
    answer = train(cached, *added, *NO_TEACHER)
    assert answer.code == 0, answer.said
    run, picture = only(cached / "smoke"), tmp_path / "a.png"
    for answer in (decm("sample", f"checkpoint={run}", f"out={picture}"), decm("evaluate", f"checkpoint={run}")):
        assert answer.code == 0, answer.said
    assert picture.is_file()


def test_what_could_not_be_read_again_is_refused_before_it_is_trained(cached, tmp_path, monkeypatch):
    """A network of a package that is not trusted: its checkpoint would be refused by every verb."""
    (tmp_path / "mine.py").write_text("from decm.networks.dit import LightningDiT\nclass Net(LightningDiT): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings = ["network._target_=mine.Net", *NO_TEACHER]
    answer = train(cached, *settings)
    assert (answer.code, "DECM_TRUST=mine" in answer.err, (cached / "smoke").exists()) == (2, True, False)
    monkeypatch.setenv("DECM_TRUST", "mine")
    assert train(cached, *settings).code == 0


def test_a_checkpoint_of_someone_else_writes_no_file(tmp_path):
    """By the verbs: the attack goes through a setting of the network."""
    file, prey = tmp_path / "a.safetensors", tmp_path / "prey"
    network = {"_target_": "decm.networks.mlp.MLP", "in_channels": {**WRITE, "path": str(prey)}}
    consolidated(file, {"network": network})
    answer = decm("sample", f"checkpoint={file}", f"out={tmp_path / 'a.png'}")
    assert (answer.code, prey.exists()) == (2, False)
    assert "is no network" in answer.err


def test_torchs_optimizers_and_ones_own_packages_are_trusted(monkeypatch):
    config = {"optimizer": {"_target_": "torch.optim.AdamW"}, "network": {"_target_": "json.JSONDecoder"}}
    with pytest.raises(ValueError, match="DECM_TRUST=json"):
        check_targets(config, "a.ckpt", ["network"])
    monkeypatch.setenv("DECM_TRUST", "mine,json")
    check_targets(config, "a.ckpt", ["network"])
