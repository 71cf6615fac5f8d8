"""Digits with a fixed split, and folders with a manifest."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

from decm.data.arrays import ARRAYS, digits, folder, write_arrays
from decm.data.loader import IndexLoader
from decm.data.manifest import MANIFEST, to_pixels

HELDOUT = 300


@pytest.fixture(scope="module")
def dataset():
    return digits()


def rows_of(x):
    """States as hashable rows."""
    return [tuple(row) for row in x.flatten(1).tolist()]


def raw_arrays(classes=3, shape=(2, 4, 4)):
    generator = torch.Generator().manual_seed(0)
    split = {"train": 12, "heldout": 5}
    states = {f"{key}_x": torch.rand(num, *shape, generator=generator) for key, num in split.items()}
    labels = {f"{key}_y": torch.randint(classes, (num,), generator=generator) for key, num in split.items()}
    return {**states, **labels}


@pytest.fixture
def written(tmp_path):
    """(raw arrays, folder)."""
    raw = raw_arrays()
    write_arrays(tmp_path, raw, "raw", 3, "a test")
    return raw, tmp_path


def test_digits_are_scikit_learns_images(dataset):
    images, labels = load_digits(return_X_y=True)
    pixels = (torch.cat([dataset.train_x, dataset.heldout_x]) + 1) * 8
    ours = sorted(zip(rows_of(pixels), torch.cat([dataset.train_y, dataset.heldout_y]).tolist(), strict=True))
    assert ours == sorted((tuple(image), int(label)) for image, label in zip(images.tolist(), labels, strict=True))


def test_the_digits_split_is_fixed_by_its_seed(dataset):
    again, other = digits(), digits(split_seed=1)
    assert torch.equal(again.train_x, dataset.train_x)
    assert torch.equal(again.heldout_x, dataset.heldout_x)
    assert not torch.equal(other.heldout_x, dataset.heldout_x)
    assert dataset.manifest.split == {"train": 1797 - HELDOUT, "heldout": HELDOUT, "seed": 0}
    assert other.manifest.split["seed"] == 1


def test_heldout_digits_never_come_up_in_training(dataset):
    """Over more than two epochs; the whole training split does come up."""
    heldout, train = set(rows_of(dataset.heldout_x)), set(rows_of(dataset.train_x))
    assert not heldout & train
    seen = set()
    for batch in IndexLoader(dataset, 0, 512, 7):
        seen |= set(rows_of(batch["x"]))
    assert seen == train


def test_digits_lie_between_minus_one_and_one_and_have_ten_classes(dataset):
    assert (dataset.train_x.min(), dataset.train_x.max()) == (-1, 1)
    assert sorted(dataset.train_y.unique().tolist()) == list(range(10))
    assert dataset.manifest.shape == tuple(dataset.train_x.shape[1:]) == (1, 8, 8)


@pytest.mark.parametrize("heldout", [0, 99, 1698, -1])
def test_a_split_that_leaves_too_little_is_an_error(heldout):
    with pytest.raises(ValueError, match=f"data.heldout={heldout}; expected 100 to 1697"):
        digits(heldout)


def test_digits_become_the_pixels_that_they_were(dataset):
    pixels = (dataset.train_x + 1) * 8  # 0 .. 16
    assert torch.equal(to_pixels(dataset.train_x, dataset.manifest), (pixels / 16 * 255).round().to(torch.uint8))


def test_a_folder_gives_back_what_was_written(written):
    raw, path = written
    dataset = folder(str(path))
    mean, std = raw["train_x"].mean((0, 2, 3)), raw["train_x"].std((0, 2, 3))
    for split in ("train", "heldout"):
        x = getattr(dataset, f"{split}_x") * std[:, None, None] + mean[:, None, None]
        torch.testing.assert_close(x, raw[f"{split}_x"])
        assert torch.equal(getattr(dataset, f"{split}_y"), raw[f"{split}_y"])
    assert (dataset.manifest.num_classes, dataset.manifest.name, dataset.manifest.origin) == (3, "raw", "a test")


def test_a_folders_states_are_normalized_by_the_training_split(written):
    dataset = folder(str(written[1]))
    assert dataset.train_x.mean((0, 2, 3)).abs().max() < 1e-5
    assert (dataset.train_x.std((0, 2, 3)) - 1).abs().max() < 1e-5
    assert dataset.heldout_x.mean((0, 2, 3)).abs().max() > 1e-3


def test_a_folder_becomes_the_pixels_that_were_written(written):
    raw, path = written
    dataset = folder(str(path))
    assert torch.equal(to_pixels(dataset.train_x, dataset.manifest), (raw["train_x"] * 255).round().to(torch.uint8))


def test_another_content_than_the_manifests_is_an_error(written):
    _, path = written
    arrays = load_file(path / ARRAYS)
    arrays["heldout_x"][0, 0, 0, 0] += 1e-6
    save_file(arrays, path / ARRAYS)
    with pytest.raises(ValueError, match="content hash differs"):
        folder(str(path))


def test_a_folder_without_a_manifest_is_an_error(written):
    _, path = written
    (path / MANIFEST).unlink()
    with pytest.raises(ValueError, match=f"has no {MANIFEST}"):
        folder(str(path))


def test_a_manifest_without_its_arrays_is_an_error(written):
    _, path = written
    (path / ARRAYS).unlink()
    with pytest.raises(ValueError, match=f"a manifest but no {ARRAYS}"):
        folder(str(path))


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        folder(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"name": "x", "shape": 3})])
def test_a_broken_manifest_is_an_error(written, text):
    _, path = written
    (path / MANIFEST).write_text(text)
    with pytest.raises(ValueError, match="is not a manifest"):
        folder(str(path))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("train_x", torch.full((12, 2, 4, 4), 1.5), "expected raw images in"),
        ("heldout_x", torch.full((5, 2, 4, 4), -0.1), "expected raw images in"),
        ("train_y", torch.full((12,), 3), "expected whole numbers, 0 to 2"),
        ("heldout_y", torch.full((5,), -1), "expected whole numbers, 0 to 2"),
        ("train_y", torch.zeros(11, dtype=torch.int64), "expected 12 labels"),
    ],
)
def test_what_cannot_be_written_is_an_error(tmp_path, key, value, said):
    with pytest.raises(ValueError, match=said):
        write_arrays(tmp_path, {**raw_arrays(), key: value}, "raw", 3, "a test")
    assert not list(tmp_path.iterdir())


def test_a_missing_split_cannot_be_written(tmp_path):
    arrays = raw_arrays()
    del arrays["heldout_y"]
    with pytest.raises(ValueError, match="expected exactly train_x, train_y, heldout_x, heldout_y"):
        write_arrays(tmp_path, arrays, "raw", 3, "a test")
