"""`decm latents encode`: the latents of the images, the same bytes after a kill and for any number of ranks."""

import signal
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from decm.cli.latents import task
from decm.data.manifest import read_manifest
from decm.networks.autoencoder import Autoencoder
from decm.settings.composition import compose
from forked import decm_beside
from latent_sets import contents, stored, write_tar

SMALL = {"channels": 32, "multipliers": [1, 2], "latent_channels": 4, "attention": False}
IMAGES, SIDE = 160, 8


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of two classes of pictures of several sizes, and an autoencoder's weights."""
    root, rng = tmp_path_factory.mktemp("encode"), np.random.default_rng(0)
    for i in range(IMAGES):
        folder = root / "images" / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (8 + i % 15, 8 + i % 11, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = Autoencoder(**SMALL).vae.state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, root / "vae.safetensors")
    return root


def settings(photos, out, source=None):
    small = ",".join(f"{key}:{str(value).lower()}" for key, value in SMALL.items())
    return [
        f"source={source or photos / 'images'}",
        f"weights={photos / 'vae.safetensors'}",
        f"autoencoder={{{small}}}",
        f"out={out}",
        f"image_size={SIDE}",
        "record_size=4",
        "shard_records=1",
        "device=cpu",
        "workers=2",
    ]


def encode(photos, out, *more, source=None):
    task(compose("latents", ["action=encode", *settings(photos, out, source), *more]))
    return out


@pytest.fixture(scope="module")
def encoded(photos):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = encode(photos, photos / "whole" / "set")
    torch.set_num_threads(before)
    return folder


def test_latents_are_those_of_the_cropped_image_and_of_its_mirror_image(photos, encoded):
    from decm.data.making.images import center_crop

    autoencoder = Autoencoder(**SMALL)
    autoencoder.load(photos / "vae.safetensors")
    x, flipped, labels = stored(encoded)
    files = [path for name in ("cat", "dog") for path in sorted((photos / "images" / name).iterdir())]
    assert np.array_equal(labels, [0] * (IMAGES // 2) + [1] * (IMAGES // 2))
    for i in (0, 7, IMAGES - 1):
        pixels = np.array(center_crop(Image.open(files[i]), SIDE))
        for picture, latent in ((pixels, x[i]), (pixels[:, ::-1], flipped[i])):
            image = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
            mean = autoencoder.encode(image)[0][0].numpy()
            assert np.abs(mean - latent.astype(np.float32)).max() < 2e-3 * max(1, np.abs(mean).max())
    manifest = read_manifest(encoded)
    assert manifest.extra["latent"] == "posterior mean"
    assert manifest.extra["autoencoder"]["channels"] == 32
    assert (manifest.shape, manifest.num_classes) == ((4, 4, 4), 2)


@pytest.mark.slow
def test_encoding_that_was_killed_goes_on_to_the_same_bytes(photos, encoded, tmp_path):
    out = tmp_path / "set"
    process = decm_beside("latents", "encode", *settings(photos, out))
    began = time.monotonic()
    while len(list(out.glob("*.tar"))) < 3 and process.poll() is None and time.monotonic() - began < 200:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert 3 <= len(finished) < IMAGES // 4
    assert not (out / "manifest.json").exists()
    encode(photos, out)
    assert {name: (out / name).stat().st_mtime_ns for name in finished} == finished  # kept, not made again
    assert {k: v for k, v in contents(out).items() if not k.endswith(".part")} == contents(encoded)


@pytest.mark.slow
def test_two_ranks_encode_the_same_bytes_as_one(photos, encoded, tmp_path):
    out = tmp_path / "set"
    words = ["latents", "encode", *settings(photos, out)]
    ranks = [decm_beside(*words, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    answers = [process.answer() for process in ranks]
    assert [answer.code for answer in answers] == [0, 0]
    said = [answer.out for answer in answers]
    assert any("160 latents of (4, 4, 4), 2 classes, 40 shards" in text for text in said)
    assert contents(out) == contents(encoded)


def test_tars_of_images_encode_as_the_folder_does(photos, encoded, tmp_path):
    paths = sorted((photos / "images").rglob("*.png"))
    files = {}
    for k, path in enumerate(paths):
        files[f"{k:04d}.png"], files[f"{k:04d}.cls"] = path.read_bytes(), b"%d" % (path.parent.name == "dog")
    write_tar(tmp_path / "images.tar", files)
    for ours, theirs in zip(stored(encode(photos, tmp_path / "set", source=tmp_path)), stored(encoded), strict=True):
        assert np.array_equal(ours, theirs)


def test_a_sample_of_the_posterior_depends_on_its_number_alone(photos, encoded, tmp_path):
    one = stored(encode(photos, tmp_path / "one", "latent=sample"))[0]
    other = stored(encode(photos, tmp_path / "other", "latent=sample", "shard_records=3"))[0]
    assert np.array_equal(one, other)
    assert not np.array_equal(one, stored(encoded)[0])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["image_size=9"], "image_size=9: expected a multiple of 2"),
        (["latent=mode"], "latent='mode' is unknown"),
        (["kind=vqgan"], "kind='vqgan' is no autoencoder"),
        (["+autoencoder.color=1"], "autoencoder=.*color.* is not understood"),
        (["autoencoder.channels=64"], "encoder.conv_in.weight"),
        (["source=nowhere"], "is no folder"),
        (["dtype=int8"], "dtype='int8': expected one of float16, float32"),
        (["shard_records=5"], "other settings"),
    ],
)
def test_encode_refuses_what_it_cannot_do(photos, encoded, more, message):
    with pytest.raises(ValueError, match=message):
        task(compose("latents", ["action=encode", *settings(photos, encoded), *more]))


def test_a_picture_that_cannot_be_decoded_is_named(photos, tmp_path):
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "broken.png").write_bytes(b"\x89PNG no")
    with pytest.raises(ValueError, match=r"a/broken.png cannot be decoded"):
        encode(photos, tmp_path / "set", source=tmp_path / "images")
