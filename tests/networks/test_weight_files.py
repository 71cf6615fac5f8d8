"""Weights are read from every common kind of file, and nothing in a file is executed."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from decm.networks.dit import LightningDiT
from decm.networks.weights import load_weights, read_state


def assert_parity(network: LightningDiT, golden: Any) -> None:
    vectors = golden.vectors
    with torch.no_grad():
        out = network(vectors["x"], vectors["t"], vectors["t"], vectors["y"])
    torch.testing.assert_close(out, vectors["out"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_every_kind_of_file_and_wrapper_gives_the_same_weights(
    released: Any, tmp_path: Path, suffix: str, prefix: str
) -> None:
    state = {prefix + key: value for key, value in released.state.items()}
    file = tmp_path / f"weights{suffix}"
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    network = released.network()
    assert str(file) in load_weights(network, file).source
    assert_parity(network, released)


@pytest.mark.parametrize("taken", ["ema", "model", "state_dict"])
def test_the_average_is_preferred_and_the_report_says_what_was_taken(released: Any, taken: str) -> None:
    order = ["ema", "model", "state_dict"]
    zeros = {key: torch.zeros_like(value) for key, value in released.state.items()}
    checkpoint: dict[str, Any] = dict.fromkeys(order[order.index(taken) + 1 :], zeros)
    checkpoint |= {taken: released.state, "opt": {"lr": 1e-4}, "step": 3}
    network = released.network()
    assert repr(taken) in load_weights(network, checkpoint).source
    assert_parity(network, released)


def test_a_legacy_torch_file_is_read_too(released: Any, tmp_path: Path) -> None:
    torch.save({"ema": released.state}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert len(load_weights(released.network(), tmp_path / "old.pt").mapped) == len(released.state) - 2


def test_a_missing_file_is_named(released: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no weights file .*nowhere\.pt"):
        load_weights(released.network(), tmp_path / "nowhere.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "found nothing"),
        ({"ema": {}}, "found nothing"),
        ({"step": 3}, r"found step \(int\)"),
        ({0: torch.ones(1)}, r"found 0 \(Tensor\)"),
    ],
)
def test_what_is_no_state_dict_is_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_state(content)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.npz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"ends in '.npz'"):
        read_state(tmp_path / "weights.npz")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds a list"):
        read_state(tmp_path / "list.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("length", [0, 10, 5000])
def test_a_truncated_file_is_refused(released: Any, tmp_path: Path, suffix: str, length: int) -> None:
    file = tmp_path / f"weights{suffix}"
    save_file(released.state, file) if suffix == ".safetensors" else torch.save(released.state, file)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ValueError, match=str(file)):
        read_state(file)


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("form", ["torch", "legacy", "pickle"])
def test_a_pickle_that_would_run_code_is_refused_unexecuted(released: Any, tmp_path: Path, form: str) -> None:
    trace, file = tmp_path / "executed", tmp_path / "weights.pt"
    content = {"ema": released.state, "args": Malicious(trace)}
    if form == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(ValueError, match=r"was refused: .* could run code"):
        load_weights(released.network(), file)
    assert not trace.exists()
    pickle.loads(pickle.dumps(content["args"]))  # the control: it would have
    assert trace.exists()
