"""`from decm import Generator`: the same images from every kind of file, on any machine, and nothing foreign is run."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import decm
from commands import RING, TINY, only, train
from commands import decm as decm_verb
from decm import Generator
from decm.data.making.latent_sources import synthetic_latents
from decm.data.manifest import to_pixels
from decm.evaluation.generate import generate
from decm.evaluation.pictures import ImagePainter
from decm.experiment.models import load_model
from decm.flow.solvers import choose_sampler
from decm.generator.decode import build_decoder
from decm.generator.files import Stored, read_stored
from decm.networks.autoencoder import Autoencoder
from decm.networks.dit import LightningDiT
from decm.networks.mlp import MLP

LABELS = [3, 1, 4, 1, 5]


def test_images_are_those_that_the_evaluation_samples(model, finished):
    """uint8 [N, H, W, 3], gray ones repeated; by the checkpoint's own weights, sampler and normalization."""
    stored = load_model(str(finished.folder), "cpu")
    for steps in (1, 2, 4):
        sampler = choose_sampler(steps, stored.trained_on)
        x = generate(stored.flow_map, (1, 8, 8), torch.tensor(LABELS), steps, sampler, seed=7)
        expected = to_pixels(x, model.manifest)
        images = model(labels=LABELS, steps=steps, seed=7)
        assert (images.dtype, images.shape) == (np.uint8, (5, 8, 8, 3))
        for channel in range(3):
            assert np.array_equal(images[..., channel], expected[:, 0].numpy())


def test_sample_i_depends_on_seed_and_i_alone(model):
    states = model.states(LABELS, steps=2, seed=3)
    for size in (1, 2, 4):
        torch.testing.assert_close(model.states(LABELS, steps=2, seed=3, batch_size=size), states, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.states(LABELS[:2], steps=2, seed=3), states[:2], atol=1e-5, rtol=0)
    other = model.states([3, 9, 9, 9, 9], steps=2, seed=3)
    torch.testing.assert_close(other[0], states[0], atol=1e-5, rtol=0)
    assert (other[1:] - states[1:]).abs().amax((1, 2, 3)).gt(1e-5).all()
    assert (model.states(LABELS, steps=2, seed=4) - states).abs().amax((1, 2, 3)).gt(0.1).all()


def test_samplers_are_the_rule_the_stored_ones_or_the_one_asked_for(model):
    stored = Generator(Stored(model.network.state_dict(), {**model.config, "samplers": {"4": "euler"}}, Path()), "cpu")
    assert (model.sampler(4), stored.sampler(4), stored.sampler(2)) == ("flow_map_steps", "euler", model.sampler(2))
    by_rule, by_store = model.states(LABELS, 4), stored.states(LABELS, 4)
    assert torch.equal(model.states(LABELS, 4, sampler="euler"), by_store)
    assert not torch.equal(by_rule, by_store)


def test_steps_are_1_to_1000(model):
    assert model.states([0], steps=1000).isfinite().all()
    for steps in (0, 1001):
        with pytest.raises(ValueError, match=f"^steps={steps} is out of range; expected 1 to 1000"):
            model(labels=[0], steps=steps)
    with pytest.raises(ValueError, match="sampler='magic' is unknown"):
        model(labels=[0], sampler="magic")
    with pytest.raises(ValueError, match="batch_size=0"):
        model(labels=[0], batch_size=0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"labels": [10]}, r"\[10\] are no classes; expected classes 0 to 9"),
        ({"labels": [0, -1]}, r"\[-1\] are no classes"),
        ({"labels": []}, "no labels"),
        ({"labels": [1.5]}, r"labels\[0\]=1.5; expected a whole number"),
        ({"labels": [0, True]}, r"labels\[1\]=True; expected a whole number"),
        ({"labels": 1.5}, "expected a whole number"),
        ({"labels": "12"}, r"labels\[0\]='12' is the name of no class: close are '2' \(2\), '1' \(1\)"),
        ({"labels": [3, "cat"]}, r"labels\[1\]='cat' is the name of no class"),
        ({}, r"num=None; pass labels"),
        ({"num": 0}, r"num=0"),
        ({"labels": [1], "num": 1}, "one of the two"),
    ],
)
def test_labels_are_checked(model, arguments, said):
    with pytest.raises(ValueError, match=said):
        model(**arguments)


def test_labels_may_be_of_any_whole_kind_or_a_number_of_balanced_ones(model):
    expected = model([0, 1, 2])
    for labels in (np.array([0, 1, 2]), torch.tensor([0, 1, 2]), (0, 1, 2)):
        assert np.array_equal(model(labels), expected)
    assert np.array_equal(model(num=3), expected)
    for labels in (["0", "1", "2"], np.array(["0", "1", "2"]), (0, "1", np.int64(2))):
        assert np.array_equal(model(labels), expected)  # the digits are called so
    for label in (2, np.int64(2), np.array(2), torch.tensor(2), "2"):
        assert np.array_equal(model(labels=label), model([2])), repr(label)


@pytest.mark.parametrize("value", ["4", 1.5, True, [1]], ids=repr)
@pytest.mark.parametrize("name", ["steps", "seed", "num", "batch_size"])
def test_numbers_are_whole(model, name, value):
    with pytest.raises(ValueError, match=f"^{name}={re.escape(repr(value))}; expected a whole number"):
        model(**{"num": 2, name: value})


def test_numbers_may_be_of_any_whole_kind(model):
    expected = model(num=3, steps=2, seed=4, batch_size=2)
    for kind in (np.int64, np.array, torch.tensor):
        numbers = {key: kind(value) for key, value in {"num": 3, "steps": 2, "seed": 4, "batch_size": 2}.items()}
        assert np.array_equal(model(**numbers), expected), kind
    for name in ("steps", "seed"):
        with pytest.raises(ValueError, match=f"{name}=None; expected a whole number"):
            model([0], **{name: None})
    with pytest.raises(ValueError, match=r"steps=1\.5; expected a whole number"):
        model.sampler(1.5)


def test_steps_that_a_sampler_cannot_take_are_called_steps(model):
    for sampler, steps in (("jump", 2), ("heun", 3)):
        with pytest.raises(ValueError, match=f"^steps={steps} with {sampler}"):
            model([0], steps=steps, sampler=sampler)


def test_weights_that_do_not_fit_are_said_to_be_of_the_folder_that_was_read(finished):
    stored = read_stored(finished.folder)
    stored.weights.pop(next(iter(stored.weights)))
    with pytest.raises(ValueError, match=f"^The model of {finished.folder} does not fit"):
        Generator(stored, "cpu")
    with pytest.raises(ValueError, match=r"^batch_size=1\.5; expected a whole number, 1 or more"):
        Generator.from_pretrained(finished.folder, device="cpu", batch_size=1.5)


def test_latents_are_in_the_units_of_the_data(model):
    raw = model.latents(LABELS, seed=2)
    assert torch.equal(raw, model.states(LABELS, seed=2) * 0.5 + 0.5)
    assert np.array_equal((raw[:, 0] * 255).round().clamp(0, 255).byte().numpy(), model(LABELS, seed=2)[..., 0])


def latent_model(manifest, autoencoder):
    """A generator of latents with random weights, not trained on anything."""
    sizes = {
        "input_size": 4,
        "patch_size": 2,
        "in_channels": 4,
        "hidden_size": 16,
        "depth": 1,
        "num_heads": 2,
        "mlp_ratio": 1.0,
        "num_classes": 3,
        "qk_norm": True,
    }
    net, settings = LightningDiT(**sizes), {"_target_": "decm.networks.dit.LightningDiT", **sizes}
    config = {
        "schema_version": 1,
        "code_version": "test",
        "step": 0,
        "weights": "ema",
        "network": settings,
        "data": manifest.metadata(),
        "trained_on": ["consistency"],
        "samplers": {},
        "autoencoder": autoencoder,
        "training": {},
        "results": None,
    }
    return Generator(Stored(net.state_dict(), config, Path()), "cpu")


@pytest.fixture
def autoencoder(tmp_path):
    """The settings of a small autoencoder whose weights are a file."""
    sizes = {"channels": 32, "multipliers": [1, 2], "latent_channels": 4, "res_blocks": 1}
    torch.manual_seed(0)
    state = {key: value.contiguous() for key, value in Autoencoder(**sizes).vae.state_dict().items()}
    save_file(state, tmp_path / "vae.safetensors")
    args = {**sizes, "attention": False, "scale": 1.0}
    return {"kind": "f8d4", "path": str(tmp_path / "vae.safetensors"), "args": args, "chunk": 2}


def test_latents_are_decoded_where_the_autoencoder_is_there_and_its_file_is_named_where_not(autoencoder, tmp_path):
    manifest = synthetic_latents(str(tmp_path / "set"), 64, [4, 4, 4], 3).manifest
    model = latent_model(manifest, autoencoder)
    expected = build_decoder(manifest, autoencoder)(model.states([0, 2], seed=5))
    assert np.array_equal(model([0, 2], seed=5), expected.permute(0, 2, 3, 1).numpy())
    assert expected.float().std() > 1

    model.save_pretrained(tmp_path / "model")
    assert str(tmp_path) not in (tmp_path / "model/config.json").read_text()
    moved = Generator.from_pretrained(tmp_path / "model", device="cpu")
    with pytest.raises(ValueError, match=r"model/vae\.safetensors is missing.*autoencoder="):
        moved([0])
    assert torch.equal(moved.latents([0, 2]), model.latents([0, 2]))
    named = Generator.from_pretrained(tmp_path / "model", device="cpu", autoencoder=autoencoder["path"])
    assert np.array_equal(named([0, 2], seed=5), model([0, 2], seed=5))
    shutil.copy(autoencoder["path"], tmp_path / "model")
    assert np.array_equal(moved([0, 2], seed=5), model([0, 2], seed=5))
    with pytest.raises(ValueError, match="no file is named"):
        latent_model(manifest, {**autoencoder, "path": None})([0])


def test_latents_are_sampled_by_the_verb_with_their_autoencoder_alone(autoencoder, tmp_path):
    """The set of latents is gone; where the weights are not beside the model, `autoencoder` says where."""
    manifest = synthetic_latents(str(tmp_path / "set"), 64, [4, 4, 4], 3).manifest
    model = latent_model(manifest, autoencoder)
    model.save_pretrained(tmp_path / "model")
    shutil.rmtree(tmp_path / "set")
    sample = ["sample", f"checkpoint={tmp_path / 'model'}", "rows=2", f"out={tmp_path / 'a.png'}", "device=cpu"]
    answer = decm_verb(*sample)
    assert answer.code == 2
    assert "vae.safetensors is missing" in answer.err
    assert "Set autoencoder=" in answer.err
    answer = decm_verb(*sample, f"autoencoder={autoencoder['path']}")
    assert answer.code == 0, answer.said
    decode = build_decoder(manifest, autoencoder)
    ImagePainter(decode, 3).grid(model.states([0, 1, 2] * 2, steps=4), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_an_autoencoder_without_effect_is_refused(exported):
    with pytest.raises(ValueError, match="has no effect: this model names no autoencoder"):
        Generator.from_pretrained(exported, autoencoder="vae.pt")


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    runs = tmp_path_factory.mktemp("ring")
    answer = train(runs, settings=[*TINY, *RING, "max_steps=2"])
    assert answer.code == 0, answer.said
    return Generator.from_pretrained(only(runs / "decm_2d"), device="cpu")


def test_points_are_no_images(points, tmp_path):
    assert isinstance(points.network, MLP)
    assert points.latents(num=6).shape == (6, 2, 1, 1)
    with pytest.raises(ValueError, match="which are no images"):
        points(num=6)
    points.save_pretrained(tmp_path / "ring")
    assert torch.equal(Generator.from_pretrained(tmp_path / "ring", device="cpu").latents(num=6), points.latents(num=6))


def test_a_device_that_is_not_there_is_refused(exported):
    with pytest.raises(ValueError, match=r"device='tpu' is not at hand; expected auto, .*cpu"):
        Generator.from_pretrained(exported, device="tpu")


def test_the_package_has_the_generator_and_nothing_made_up():
    assert decm.Generator is Generator
    with pytest.raises(AttributeError, match="no attribute 'Sampler'"):
        _ = decm.Sampler
