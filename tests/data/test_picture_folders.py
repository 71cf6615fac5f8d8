"""`decm data`, `decm reference` and `decm latents encode` read the same pictures of a folder, and the same pixels."""

import re
import shlex

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from commands import decm, train
from decm.cli.latents import task as latents
from decm.cli.reference import task as reference
from decm.data.arrays import folder
from decm.data.manifest import to_pixels
from decm.evaluation.statistics import read_reference
from decm.features.build import EXTRACTORS
from decm.networks.autoencoder import Autoencoder
from decm.settings.composition import compose
from latent_sets import write_tar
from ranks import PixelFeatures

SMALL = {"channels": 32, "multipliers": [1], "latent_channels": 4, "attention": False}
PIXELS = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)


def save(path, k, orientation=1):
    """Picture k as PNG, stored so that it is upright as `orientation` says (6 or 1)."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rot90(PIXELS[k], 1) if orientation == 6 else PIXELS[k]).save(path, exif=exif.tobytes())


@pytest.fixture
def linked(tmp_path):
    """links/a/{4 pictures, sub -> 6 pictures}, links/b -> the same 6, of which some are stored on their side."""
    for k in range(4):
        save(tmp_path / "links" / "a" / f"{k}.png", k, (1, 6)[k % 2])
    for k in range(4, 10):
        save(tmp_path / "store" / f"{k}.png", k, (1, 6)[k % 2])
    (tmp_path / "links" / "a" / "sub").symlink_to(tmp_path / "store")
    (tmp_path / "links" / "b").symlink_to(tmp_path / "store")
    return tmp_path / "links"


def of_data(images, out, *more):
    """The pictures of a set, sorted."""
    answer = decm("data", f"images={images}", "size=8", "heldout=0.25", f"out={out}", *more)
    if answer.code:
        raise ValueError(answer.said)
    found = folder(str(out))
    pixels = to_pixels(torch.cat([found.train_x, found.heldout_x]), found.manifest)
    return sorted(x.tobytes() for x in pixels.permute(0, 2, 3, 1).numpy())


def of_reference(images, out, *more):
    """(number of images, mean of their features)."""
    reference(compose("reference", [f"images={images}", f"out={out}.npz", "features=pixels", *more]))
    found = read_reference(f"{out}.npz")
    return found.provenance["count"], found.moments["pool"][0]


def of_encoding(images, out, *more):
    """The latents of a set, in the order of its pictures."""
    small = ",".join(f"{key}:{str(value).lower()}" for key, value in SMALL.items())
    weights = out.parent / "vae.safetensors"
    if not weights.exists():
        torch.manual_seed(0)
        state = Autoencoder(**SMALL).vae.state_dict()
        save_file({key: value.contiguous() for key, value in state.items()}, weights)
    settings = [
        f"weights={weights}",
        f"autoencoder={{{small}}}",
        "image_size=8",
        "device=cpu",
        "dtype=float32",
        "flip=false",
    ]
    latents(compose("latents", ["action=encode", f"source={images}", f"out={out}", *settings, *more]))
    return stored_latents(out)


def stored_latents(out):
    from decm.data.shards import ShardRecords
    from decm.flow.randomness import permutation

    records = ShardRecords(sorted(out.glob("*.tar")))
    latents = np.concatenate([records.read(r) for r in range(len(records))])
    return latents[np.argsort(permutation(0, "shards", 0, len(latents)).numpy())]


def encoded(pixels, weights):
    autoencoder = Autoencoder(**SMALL)
    autoencoder.load(weights)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    return autoencoder.encode(x)[0].numpy()


@pytest.fixture
def verbs(monkeypatch):
    """What each verb reads against these pictures [N, 8, 8, 3]: raises unless they are the same."""
    monkeypatch.setitem(EXTRACTORS, "pixels", lambda weights, key: PixelFeatures())

    def data(images, out, pixels, *more):
        assert of_data(images, out, *more) == sorted(x.tobytes() for x in pixels)

    def reference(images, out, pixels, *more):
        count, mean = of_reference(images, out, *more)
        features = PixelFeatures()(torch.from_numpy(pixels).permute(0, 3, 1, 2))["pool"]
        assert count == len(pixels)
        assert torch.allclose(mean, features.double().mean(0), atol=1e-6)

    def encode(images, out, pixels, *more):
        latents = of_encoding(images, out, *more)
        truth = encoded(pixels, out.parent / "vae.safetensors")
        assert latents.shape == truth.shape
        assert np.abs(latents - truth).max() < 1e-4

    return {"data": data, "reference": reference, "encode": encode}


VERBS = pytest.mark.parametrize("verb", ["data", "reference", "encode"])
SIXTEEN = [*range(4), *range(4, 10), *range(4, 10)]


@VERBS
def test_all_verbs_follow_links_in_one_order_and_turn_pictures_upright(verb, verbs, linked, tmp_path):
    verbs[verb](linked, tmp_path / "out", PIXELS[SIXTEEN])


@VERBS
def test_without_exif_orientation_all_verbs_read_pictures_as_they_are_stored(verb, verbs, linked, tmp_path):
    as_stored = np.stack([np.rot90(PIXELS[k], 1) if k % 2 else PIXELS[k] for k in SIXTEEN])
    verbs[verb](linked, tmp_path / "out", as_stored, "exif_orientation=false")
    with pytest.raises(AssertionError):  # negative control
        verbs[verb](linked, tmp_path / "other", PIXELS[SIXTEEN], "exif_orientation=false")


@VERBS
def test_all_verbs_read_tar_shards(verb, verbs, linked, tmp_path):
    files = {}
    for k in range(4):
        files |= {f"{k}.png": (linked / "a" / f"{k}.png").read_bytes(), f"{k}.cls": b"%d" % (k % 2)}
    (tmp_path / "tars").mkdir()
    write_tar(tmp_path / "tars" / "0.tar", files)
    verbs[verb](tmp_path / "tars", tmp_path / "out", PIXELS[:4])


@VERBS
def test_a_damaged_picture_is_refused_by_name_or_skipped_and_counted(verb, verbs, linked, tmp_path, capsys):
    damaged = linked / "a" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    (linked / "a" / "2.png").unlink()
    (linked / "a" / "2.png").symlink_to("nowhere")
    with pytest.raises(ValueError, match=rf"The image {re.escape(str(linked))}/a/[12]\.png cannot be"):
        verbs[verb](linked, tmp_path / "out", PIXELS[SIXTEEN])
    with pytest.raises(ValueError, match=r"on_corrupt='ignore' is unknown; expected raise or skip"):
        verbs[verb](linked, tmp_path / "none", PIXELS[SIXTEEN], "on_corrupt=ignore")
    verbs[verb](linked, tmp_path / "skipped", PIXELS[[0, 3, *SIXTEEN[4:]]], "on_corrupt=skip")


def test_what_was_skipped_is_said_with_the_first_of_it(linked, tmp_path):
    (linked / "a" / "1.png").write_bytes(b"no picture")
    (linked / "a" / "3.png").write_bytes(b"")
    answer = decm("data", f"images={linked}", "size=8", "heldout=0.25", f"out={tmp_path / 'out'}", "on_corrupt=skip")
    assert answer.code == 0, answer.said
    assert f"Skipped 2 damaged images of 16 (on_corrupt=skip). The first: The image {linked}/a/1.png" in answer.out


def test_a_class_of_which_no_picture_is_left_is_refused(linked, tmp_path):
    (linked / "c").mkdir()
    (linked / "c" / "0.png").write_bytes(b"no picture")
    answer = decm("data", f"images={linked}", "size=8", "heldout=0.25", f"out={tmp_path / 'out'}", "on_corrupt=skip")
    assert answer.code == 2
    assert f"No image of the class of {linked}/c/0.png can be decoded" in answer.err
    assert not (tmp_path / "out").exists()


def test_a_damaged_picture_in_a_shard_is_named_with_shard_and_record(linked, tmp_path):
    (tmp_path / "tars").mkdir()
    write_tar(
        tmp_path / "tars" / "0.tar",
        {"good.png": (linked / "a/0.png").read_bytes(), "good.cls": b"0", "bad.png": b"no picture", "bad.cls": b"0"},
    )
    answer = decm("data", f"images={tmp_path / 'tars'}", "size=8", "heldout=0.5", f"out={tmp_path / 'out'}")
    assert answer.code == 2
    assert re.search(rf"The image 'bad' at byte \d+ of {tmp_path}/tars/0\.tar cannot be decoded", answer.err)


def test_pictures_as_data_path_get_the_command_that_makes_a_set_of_them(linked, tmp_path):
    answer = train(tmp_path / "runs", "data=folder", f"data.path={linked}")
    assert answer.code == 2
    command = re.search("`(decm data .*?)`", answer.err)[1].replace("<pixels a side>", "8")
    assert shlex.split(command) == ["decm", "data", f"images={linked}", "size=8", f"out={linked}-set"]
    assert decm(*shlex.split(command)[1:], "heldout=0.25").code == 0
    answer = train(tmp_path / "runs", "data=folder", f"data.path={linked}-set")
    assert "the network expects" in answer.err  # which has other channels and classes: the set itself is read


def test_pictures_as_the_path_of_latents_get_the_command_that_encodes_them(linked, tmp_path):
    answer = train(tmp_path / "runs", "data=latents", f"data.path={linked}")
    assert answer.code == 2
    assert f"`decm latents encode source={linked} weights=<autoencoder> out={linked}-set`" in answer.err
