"""`trainer.compile=auto` compiles where the run is long enough and the machine can, and says which."""

import pytest
import torch

from commands import decm
from decm.experiment.build import build_network
from decm.experiment.compilation import is_compiled
from decm.experiment.dry_run import operations, rate_of_gpu
from decm.settings.composition import compose


def configured(*overrides):
    """(configuration of the digits experiment, its network without memory)."""
    cfg = compose("train", ["experiment=decm_digits", "trainer.accelerator=cpu", *overrides])
    with torch.device("meta"):
        return cfg, build_network(cfg.network, 0)


def test_a_short_run_is_not_compiled_and_a_long_one_is(capsys):
    assert not is_compiled(*configured())
    assert "not compiled" in capsys.readouterr().out
    assert is_compiled(*configured("max_steps=100000"))
    assert "compiled, its" in capsys.readouterr().out


def test_the_operations_are_those_of_all_tokens_and_steps():
    cfg, net = configured()
    longer, wider = (operations(*configured(change)) for change in ("max_steps=2400", "network.patch_size=2"))
    assert longer == pytest.approx(2 * operations(cfg, net), rel=0.01)
    assert wider == pytest.approx(4 * operations(cfg, net), rel=0.05)  # 16 tokens in place of 4


def test_without_a_compiler_nothing_is_compiled(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert not is_compiled(*configured("max_steps=100000"))
    assert "no C++ compiler" in capsys.readouterr().out
    (tmp_path / "g++").touch(mode=0o755)
    assert is_compiled(*configured("max_steps=100000"))


@pytest.mark.parametrize(("said", "expected"), [("true", True), ("false", False)])
def test_what_is_decided_holds(said, expected, capsys):
    assert is_compiled(*configured(f"trainer.compile={said}", "max_steps=100000")) is expected
    assert not capsys.readouterr().out


def test_a_network_without_blocks_is_not_compiled():
    assert not is_compiled(*configured("experiment=decm_2d", "max_steps=1000000000"))


def test_another_word_is_refused(tmp_path):
    answer = decm("train", "experiment=smoke", "trainer.compile=maybe", f"runs={tmp_path}")
    assert answer.code == 2
    assert "trainer.compile=maybe; expected true, false or auto" in answer.err
    assert not list(tmp_path.iterdir())


def test_a_dry_run_reckons_with_what_was_measured_on_this_gpu_alone(tmp_path, monkeypatch):
    path = tmp_path / "step_gpu.json"
    assert "not a measurement" in rate_of_gpu(path)[1]
    path.write_text('{"machine": "Fast GPU, torch 9", "date": "2026-01-01", "operations_per_second": 5e14}')
    assert "not a measurement" in rate_of_gpu(path)[1]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Other")
    assert "not a measurement" in rate_of_gpu(path)[1]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Fast GPU")
    assert rate_of_gpu(path) == (
        5e14,
        "at the 5e+14 operations a second that were measured on Fast GPU, torch 9 (2026-01-01)",
    )
    path.write_text("{")
    assert "not a measurement" in rate_of_gpu(path)[1]
