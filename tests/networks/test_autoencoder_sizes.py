"""The published autoencoders' names and sizes, enumerated here by LDM's structure, have their place in ours."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from decm.networks.autoencoder import KINDS, Autoencoder


def ldm_names(channels: int, multipliers: tuple[int, ...], attention: bool) -> Iterator[tuple[str, str, int, int]]:
    """(prefix, what, channels in, channels out) of every layer of LDM's encoder and decoder, two blocks a level."""
    widths, lowest = [channels * multiplier for multiplier in multipliers], len(multipliers) - 1
    for side, level_name, blocks in (("encoder", "down", 2), ("decoder", "up", 3)):
        width = channels if side == "encoder" else widths[-1]
        for level in range(lowest + 1) if side == "encoder" else range(lowest, -1, -1):
            for block in range(blocks):
                yield f"{side}.{level_name}.{level}.block.{block}", "block", width, widths[level]
                width = widths[level]
                if attention and level == lowest:
                    yield f"{side}.{level_name}.{level}.attn.{block}", "attention", width, width
            if level != (lowest if side == "encoder" else 0):
                yield f"{side}.{level_name}.{level}.{level_name}sample.conv", "conv3", width, width
        for name, what in (("block_1", "block"), ("attn_1", "attention"), ("block_2", "block")):
            yield f"{side}.mid.{name}", what, widths[-1], widths[-1]
        yield f"{side}.norm_out", "norm", width, width


def parts(what: str, before: int, after: int) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """(name, shape of the weight, length of the bias) within one layer."""
    if what == "block":
        yield from ((".norm1", (before,), before), (".norm2", (after,), after))
        yield from ((".conv1", (after, before, 3, 3), after), (".conv2", (after, after, 3, 3), after))
        yield from [(".nin_shortcut", (after, before, 1, 1), after)] if before != after else []
    elif what == "attention":
        yield (".norm", (after,), after)
        yield from ((f".{name}", (after, after, 1, 1), after) for name in ("q", "k", "v", "proj_out"))
    else:
        yield ("", (after,) if what == "norm" else (after, before, 3, 3), after)


def ldm_state(channels: int, multipliers: tuple[int, ...], latent_channels: int, attention: bool) -> dict[str, Tensor]:
    low, z = channels * multipliers[-1], latent_channels
    layers = [
        (prefix + name, shape, bias)
        for prefix, what, before, after in ldm_names(channels, multipliers, attention)
        for name, shape, bias in parts(what, before, after)
    ]
    layers += [("encoder.conv_in", (channels, 3, 3, 3), channels), ("encoder.conv_out", (2 * z, low, 3, 3), 2 * z)]
    layers += [("decoder.conv_in", (low, z, 3, 3), low), ("decoder.conv_out", (3, channels, 3, 3), 3)]
    layers += [("quant_conv", (2 * z, 2 * z, 1, 1), 2 * z), ("post_quant_conv", (z, z, 1, 1), z)]
    return {
        f"{name}.{kind}": torch.empty(size, device="meta")
        for name, shape, bias in layers
        for kind, size in (("weight", shape), ("bias", (bias,)))
    }


def test_the_names_enumerated_here_are_those_of_the_reference(ldm: Any) -> None:
    ours = {key: value.shape for key, value in ldm_state(32, (1, 2), 4, True).items()}
    assert ours == {key: value.shape for key, value in ldm.state.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_of_the_published_sizes_has_its_place(kind: str) -> None:
    settings = KINDS[kind]
    sizes = {name: settings[name] for name in ("channels", "multipliers", "latent_channels", "attention")}
    with torch.device("meta"):
        autoencoder = Autoencoder(**settings)
    state = ldm_state(**sizes)
    assert set(autoencoder.load(state).mapped) == set(state)


def test_sd_vae_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        autoencoder = Autoencoder(**KINDS["f8d4"])
    assert sum(parameter.numel() for parameter in autoencoder.parameters()) == 83_653_863
