"""`decm train trainer=fsdp` on two processes, and what is done with its checkpoints by one."""

import json

import pytest
import torch
from safetensors.torch import save_file

from commands import decm, in_a_process, only, results
from decm.generator.checkpoints import read_checkpoint
from experiment.test_imagenet import FAST

SHARDED = [*FAST, "trainer=fsdp", "evaluation.every=2"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A root with the run of one process, and one with that of two, of the same teacher settings."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    answer = decm("train", *FAST, "evaluation.every=2", f"runs={one}")
    assert answer.code == 0, answer.said
    answer = in_a_process("train", *SHARDED, f"runs={two}", GLOO_SOCKET_IFNAME="lo")
    assert answer.code == 0, answer.said
    return one, two


def folder(root):
    return only(root / "decm_imagenet_smoke")


def test_two_sharded_processes_come_to_the_figures_of_one(runs):
    one, two = (results(folder(root)) for root in runs)
    assert two["student"]["1"] == pytest.approx(one["student"]["1"], rel=1e-4)
    assert two["teacher"]["1"] == pytest.approx(one["teacher"]["1"], rel=1e-4)
    assert two["forward_equivalents"] == one["forward_equivalents"]
    left = {path.name for path in folder(runs[1]).iterdir()} - {"heartbeats"}
    assert left == {path.name for path in folder(runs[0]).iterdir()}


def test_the_weights_and_averages_are_those_of_one_process(runs):
    one, two = (read_checkpoint(folder(root)) for root in runs)
    assert (folder(runs[1]) / "checkpoints" / "last.ckpt").is_dir()
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, value in one["state_dict"].items():
        assert (two["state_dict"][name] - value).abs().max() < 1e-5, name
    assert one["global_step"] == two["global_step"] == 3


def test_a_consolidated_file_is_evaluated_like_the_run(runs, tmp_path):
    run, out = folder(runs[1]), tmp_path / "ema.safetensors"
    answer = decm("consolidate", f"checkpoint={run}", f"out={out}")
    assert answer.code == 0, answer.said
    assert "ema of" in answer.out
    assert "step 3" in answer.out
    answer = decm("evaluate", f"checkpoint={out}", "nfe=[1]")
    assert answer.code == 0, answer.said
    again = json.loads(next(tmp_path.glob("evaluation_*.json")).read_text())
    assert again["student"]["1"] == results(run)["student"]["1"]
    answer = decm("consolidate", f"checkpoint={run}", f"out={out}", "weights=student")
    assert answer.code == 0, answer.said
    raw = {key.removeprefix("student."): value for key, value in read_checkpoint(run)["state_dict"].items()}
    held = read_checkpoint(out)["state_dict"]
    assert all(torch.equal(value, raw[key.removeprefix("ema.")]) for key, value in held.items())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["out=ema.pt"], "ends in .safetensors"),
        (["weights=all"], "expected ema or student"),
        (["checkpoint=nowhere"], "does not exist"),
    ],
)
def test_what_cannot_be_consolidated_is_refused(runs, tmp_path, overrides, said):
    answer = decm("consolidate", f"checkpoint={folder(runs[0])}", f"out={tmp_path}/a.safetensors", *overrides)
    assert answer.code == 2
    assert said in answer.err
    assert list(tmp_path.iterdir()) == []


def test_what_a_files_configuration_would_call_is_decms_alone(tmp_path, monkeypatch):
    """The metadata is whoever's made the file: `_target_` in it is a function call."""
    touched, file = tmp_path / "touched", tmp_path / "other.safetensors"
    config = {
        "network": {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": [str(touched)]}}
    }
    written = {"decm_config": json.dumps(config), "manifest": "{}", "global_step": "1", "weights": "ema"}
    save_file({"a": torch.zeros(2)}, file, {**written, "code_version": "0"})
    answer = decm("sample", f"checkpoint={file}", f"out={tmp_path}/a.png")
    assert answer.code == 2
    assert "would call pathlib.Path.touch" in answer.err
    assert not touched.exists()
    monkeypatch.setenv("DECM_TRUST", "pathlib")
    read_checkpoint(file)


def test_a_foreign_safetensors_file_is_no_checkpoint(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    answer = decm("evaluate", f"checkpoint={tmp_path / 'other.safetensors'}")
    assert answer.code == 2
    assert "carries no configuration" in answer.err
