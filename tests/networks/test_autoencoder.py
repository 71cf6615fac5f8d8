"""The autoencoders reproduce LDM's, load strictly, and keep their promises of range, chunks and precision."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from decm.networks import autoencoder as module
from decm.networks.autoencoder import KINDS, Autoencoder

SMALL = {"channels": 32, "multipliers": (1, 2), "latent_channels": 4, "attention": True}


def loaded(state: dict[str, Tensor], **overrides: Any) -> Autoencoder:
    autoencoder = Autoencoder(**{**SMALL, **overrides})
    autoencoder.load(state)
    return autoencoder


def worst(ours: Tensor, reference: Tensor) -> float:
    return float((ours - reference).abs().max())


# parity


def test_encoding_equals_the_reference_to_1e_4(ldm: Any) -> None:
    mean, logvar = loaded(ldm.state).encode(ldm.vectors["image"])
    assert worst(mean, ldm.vectors["latent_mean"]) < 1e-4
    assert worst(logvar, ldm.vectors["latent_logvar"]) < 1e-4


def test_decoding_equals_the_reference_to_1e_4(ldm: Any) -> None:
    images = loaded(ldm.state).decode(ldm.vectors["z"], clamp=False)
    assert worst(images, ldm.vectors["decoded"]) < 1e-4


EXCHANGES = [("attn.0.q.", "attn.0.v."), ("mid.block_1.", "mid.block_2."), ("block.1.conv1.", "block.1.conv2.")]


@pytest.mark.parametrize(("one", "other"), EXCHANGES)
def test_parity_fails_where_two_weights_of_equal_shape_are_exchanged(ldm: Any, one: str, other: str) -> None:
    swapped = {
        (key.replace(one, other) if one in key else key.replace(other, one)): value for key, value in ldm.state.items()
    }
    autoencoder = loaded(swapped)
    assert worst(autoencoder.encode(ldm.vectors["image"])[0], ldm.vectors["latent_mean"]) > 1e-3
    assert worst(autoencoder.decode(ldm.vectors["z"], clamp=False), ldm.vectors["decoded"]) > 1e-3


def test_an_autoencoder_without_the_lowest_attention_refuses_its_weights(ldm: Any) -> None:
    with pytest.raises(ValueError, match=r"\(50 keys.*") as refused:
        loaded(ldm.state, attention=False)
    assert "decoder.up_blocks.0.attentions.0.to_k.bias: found (64,), expected no such key" in str(refused.value)


# promises


def test_images_stay_within_minus_one_and_one(ldm: Any) -> None:
    images = loaded(ldm.state).decode(ldm.vectors["z"])
    assert torch.equal(images, loaded(ldm.state).decode(ldm.vectors["z"], clamp=False).clamp(-1, 1))
    assert ldm.vectors["decoded"].abs().max() > 1  # so that the clamp is put to the test


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_chunks_change_nothing(ldm: Any, chunk: int) -> None:
    autoencoder = loaded(ldm.state)
    images, z = ldm.vectors["image"].repeat(3, 1, 1, 1)[:5], ldm.vectors["z"].repeat(3, 1, 1, 1)[:5]
    for ours, whole in zip(autoencoder.encode(images, chunk=chunk), autoencoder.encode(images, chunk=5), strict=True):
        torch.testing.assert_close(ours, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(autoencoder.decode(z, chunk=chunk), autoencoder.decode(z, chunk=5), atol=1e-5, rtol=0)


def test_latents_are_shifted_and_scaled_and_decoding_undoes_it(ldm: Any) -> None:
    plain, scaled = loaded(ldm.state), loaded(ldm.state, scale=0.25, shift=0.5)
    (mean, logvar), (ours, ours_logvar) = (model.encode(ldm.vectors["image"]) for model in (plain, scaled))
    torch.testing.assert_close(ours, (mean - 0.5) * 0.25)
    torch.testing.assert_close(ours_logvar.exp(), logvar.exp() * 0.25**2)
    torch.testing.assert_close(scaled.decode(ours), plain.decode(mean), atol=1e-5, rtol=0)


def test_half_precision_gives_float32_near_full_precision(ldm: Any) -> None:
    images = loaded(ldm.state, half_precision=True).decode(ldm.vectors["z"], clamp=False)
    assert images.dtype == torch.float32
    assert 1e-4 < worst(images, ldm.vectors["decoded"]) < 0.05


def test_nothing_of_it_is_trained(ldm: Any) -> None:
    autoencoder = loaded(ldm.state)
    assert not any(parameter.requires_grad for parameter in autoencoder.parameters())
    assert not autoencoder.decode(ldm.vectors["z"].requires_grad_()).requires_grad


# loading


@pytest.mark.parametrize("suffix", [".ckpt", ".pt"])
def test_a_checkpoint_with_training_extras_loads_and_names_them_as_dropped(
    ldm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setitem(KINDS, "small", SMALL)
    extras = ["loss.logvar", "foundation_model.model.cls_token", "linear_proj.weight"]
    file = tmp_path / f"vae{suffix}"
    torch.save({"state_dict": ldm.state | {key: torch.zeros(3) for key in extras}, "global_step": 7}, file)
    autoencoder = Autoencoder.from_file(file, "small")
    assert autoencoder.report is not None
    assert autoencoder.report.dropped == extras
    assert set(autoencoder.report.mapped) == set(ldm.state)
    assert "state_dict" in autoencoder.report.source
    assert worst(autoencoder.decode(ldm.vectors["z"], clamp=False), ldm.vectors["decoded"]) < 1e-4


def old_name(key: str) -> str:
    for name, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        key = key.replace(f".{name}.", f".{old}.")
    return key


@pytest.mark.parametrize("old", [False, True])
def test_diffusers_names_of_today_and_of_old_load_too(ldm: Any, old: bool) -> None:
    state = loaded(ldm.state).vae.state_dict()
    autoencoder = loaded({old_name(key) if old else key: value for key, value in state.items()})
    assert worst(autoencoder.decode(ldm.vectors["z"], clamp=False), ldm.vectors["decoded"]) < 1e-4


def test_missing_misshapen_and_unknown_keys_are_each_named(ldm: Any) -> None:
    state = ldm.state | {"encoder.extra": torch.zeros(2), "encoder.conv_in.bias": torch.zeros(5)}
    del state["quant_conv.bias"]
    with pytest.raises(ValueError, match=r"\(3 keys") as refused:
        loaded(state)
    for line in ("extra: found (2,), expected no such", "conv_in.bias: found (5,), expected (32,)"):
        assert f"encoder.{line}" in str(refused.value)
    assert "quant_conv.bias: found nothing, expected (8,)" in str(refused.value)


def test_the_kind_that_would_fit_is_guessed(ldm: Any) -> None:
    with pytest.raises(ValueError, match="4 channels: try kind='f8d4'"):
        loaded(ldm.state, latent_channels=8)
    with pytest.raises(ValueError, match="not the weights of an LDM autoencoder"):
        loaded({"weight": torch.zeros(1)})


def test_one_weight_under_two_names_is_refused(ldm: Any) -> None:
    with pytest.raises(ValueError, match="twice"):
        loaded(ldm.state | {"encoder.conv_norm_out.weight": torch.ones(64)})


def test_an_unknown_kind_and_a_missing_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"kind='f4' .* f16d32, f8d4"):
        Autoencoder.from_file(tmp_path / "vae.pt", "f4")
    monkeypatch.setitem(KINDS, "small", SMALL)
    with pytest.raises(ValueError, match=r"no weights file .*vae\.pt"):
        Autoencoder.from_file(tmp_path / "vae.pt", "small")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 3, 15, 16), "multiples of 2"),
        (torch.zeros(1, 1, 16, 16), r"expected \[B, 3, H, W\]"),
        (torch.zeros(3, 16, 16), r"expected \[B, 3, H, W\]"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "uint8 images"),
        (torch.full((1, 3, 16, 16), 255.0), "outside"),
        (torch.full((1, 3, 16, 16), float("nan")), "outside"),
    ],
)
def test_what_are_no_images_is_refused(images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Autoencoder(**SMALL).encode(images)


def test_wrong_latents_chunks_and_scales_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \[B, 4, h, w\]"):
        Autoencoder(**SMALL).decode(torch.zeros(1, 32, 8, 8))
    with pytest.raises(ValueError, match="chunk=0"):
        Autoencoder(**SMALL).decode(torch.zeros(1, 4, 8, 8), chunk=0)
    with pytest.raises(ValueError, match="scale=0"):
        Autoencoder(**SMALL, scale=0)


def test_without_diffusers_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    spec = importlib.util.spec_from_file_location("autoencoder_without_diffusers", module.__file__)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(ImportError, match=r"decm\[vae\]"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
