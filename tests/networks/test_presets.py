"""The presets of the transformer: their numbers, and that they are guessed from weights."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from decm.networks.dit import LightningDiT
from decm.networks.weights import PRESETS, SHARED, load_weights
from decm.settings.composition import compose

PRESET_FILES = sorted((Path(__file__).parents[2] / "conf" / "network").glob("lightningdit_*.yaml"))


def preset(file: Path) -> dict[str, Any]:
    return OmegaConf.to_container(compose("train", [f"network={file.stem}"]).network)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("extra", ["", "channels", "qk_norm"])
def test_the_preset_that_would_fit_is_guessed(released: Any, name: str, extra: str) -> None:
    width, depth, patch = PRESETS[name]
    channels = 16 if extra == "channels" else 32
    state = {f"blocks.{i}.norm1.weight": torch.ones(1) for i in range(depth)}
    state["x_embedder.proj.weight"] = torch.empty(width, channels, patch, patch, device="meta")
    state["pos_embed"] = torch.empty(1, (16 // patch) ** 2, width, device="meta")
    if extra == "qk_norm":
        state["blocks.0.attn.q_norm.weight"] = torch.ones(64)
    with pytest.raises(ValueError, match=f"They would fit network={name} ") as refused:
        load_weights(released.network(), state)
    guess = str(refused.value).splitlines()[-1]
    assert ("network.in_channels=16" in guess) == (extra == "channels")
    assert ("network.qk_norm=true" in guess) == (extra == "qk_norm")


def test_sizes_of_no_preset_are_told(qknorm: Any, released: Any) -> None:
    with pytest.raises(ValueError, match=r"width 64, depth 2, patch size 1, 4 channels") as refused:
        load_weights(released.network(), qknorm.state)
    for setting in ("in_channels=4", "input_size=8", "num_classes=10", "qk_norm=true"):
        assert f"network.{setting}" in str(refused.value)


def test_the_weights_of_something_else_are_told_apart(released: Any) -> None:
    with pytest.raises(ValueError, match="not the weights of a LightningDiT"):
        load_weights(released.network(), {"layer.weight": torch.zeros(2)})


def test_the_table_of_presets_equals_the_yaml_files() -> None:
    found = {file.stem: preset(file) for file in PRESET_FILES}
    assert {k: (v["hidden_size"], v["depth"], v["patch_size"]) for k, v in found.items()} == PRESETS
    assert all({name: value[name] for name in SHARED} == SHARED for value in found.values())


@pytest.mark.parametrize("file", PRESET_FILES, ids=lambda file: file.stem)
def test_a_preset_gives_every_argument_of_the_constructor_and_no_other(file: Path) -> None:
    settings = preset(file)
    assert settings.pop("_target_") == f"{LightningDiT.__module__}.{LightningDiT.__qualname__}"
    assert set(settings) == set(inspect.signature(LightningDiT).parameters)


def test_every_number_of_a_preset_has_an_origin() -> None:
    """In its line, or for the numbers of a size in its file's first line."""
    for line in (PRESET_FILES[0].parent / "shared" / "lightningdit.yaml").read_text().splitlines():
        assert line.startswith(("#", "_target_")) or "  # " in line
    sizes = {"patch_size", "hidden_size", "depth", "num_heads"}
    for file in PRESET_FILES:
        first, *lines = file.read_text().splitlines()
        assert first.startswith("#")
        assert "arXiv:" in first
        assert {line.split(":")[0] for line in lines if not line.startswith((" ", "defaults"))} == sizes


@pytest.mark.parametrize(("name", "millions"), [("b_1", 130), ("xl_1", 675), ("1p0b", 1030), ("1p6b", 1600)])
def test_a_preset_has_the_published_number_of_parameters(name: str, millions: int) -> None:
    settings = preset(next(file for file in PRESET_FILES if file.stem == f"lightningdit_{name}"))
    settings.pop("_target_")
    with torch.device("meta"):
        network = LightningDiT(**{**settings, "two_times": False})
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.03)
