"""MNIST and Fashion-MNIST from idx files: the pictures as they are stored, and clear answers to bad files."""

import gzip
import struct

import numpy as np
import pytest
import torch

from commands import decm
from decm.data.manifest import to_pixels
from decm.data.published import IDX, SYSTEM
from decm.data.sets.idx import fashion_mnist, mnist, read_idx


def idx(array):
    """The bytes of an idx file of uint8."""
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


def made(folder, num=40, held=20, packed=True, **changes):
    """A folder of the four files, of random pictures; the arrays that are in it."""
    draw = np.random.default_rng(0)
    arrays = {
        "train_x": draw.integers(0, 256, (num, 28, 28)),
        "train_y": np.arange(num) % 10,
        "heldout_x": draw.integers(0, 256, (held, 28, 28)),
        "heldout_y": np.arange(held) % 10,
    } | changes
    folder.mkdir(parents=True, exist_ok=True)
    for key, stem in IDX.items():
        content = idx(arrays[key])
        (folder / (f"{stem}.gz" if packed else stem)).write_bytes(gzip.compress(content) if packed else content)
    return arrays


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("below", [".", "raw", "FashionMNIST/raw"])
def test_pictures_and_labels_are_those_of_the_files(tmp_path, packed, below):
    arrays = made(tmp_path / below, packed=packed)
    data = fashion_mnist(str(tmp_path))
    assert torch.equal(
        to_pixels(data.train_x, data.manifest)[:, 0], torch.from_numpy(arrays["train_x"]).to(torch.uint8)
    )
    assert data.heldout_y.tolist() == arrays["heldout_y"].tolist()
    assert data.manifest.shape == (1, 28, 28)
    assert data.manifest.class_names[9] == "Ankle boot"


def test_states_are_normalized_by_the_training_part(tmp_path):
    made(tmp_path)
    x = mnist(str(tmp_path)).train_x
    assert x.dtype == torch.float32
    assert float(x.mean()) == pytest.approx(0, abs=1e-4)
    assert float(x.std()) == pytest.approx(1, abs=1e-3)


def test_a_batch_is_the_rows_of_all_states_and_memory_holds_bytes(tmp_path):
    made(tmp_path)
    data = mnist(str(tmp_path))
    x, y = data.batch(0, torch.arange(40))
    assert data.stored["train_x"].dtype == torch.uint8
    rows = [int((data.train_x == state).flatten(1).all(1).nonzero()) for state in x]
    assert sorted(rows) == list(range(40))
    assert torch.equal(data.train_y[rows], y)


def test_another_set_has_another_content(tmp_path):
    arrays = made(tmp_path / "a")
    made(tmp_path / "b", train_y=(arrays["train_y"] + 1) % 10)
    hashes = {mnist(str(tmp_path / name)).manifest.content_hash for name in "ab"}
    assert len(hashes) == 2


@pytest.mark.parametrize("by", [1, 28 * 28, 20_000])
def test_a_file_that_is_cut_off_is_named(tmp_path, by):
    made(tmp_path, packed=False)
    path = tmp_path / IDX["train_x"]
    path.write_bytes(path.read_bytes()[:-by])
    with pytest.raises(ValueError, match=r"-ubyte has \d+ bytes of data, expected 40 x 28 x 28: it is cut off"):
        mnist(str(tmp_path))


def test_a_compressed_file_that_is_cut_off_is_named(tmp_path):
    made(tmp_path)
    path = tmp_path / f"{IDX['heldout_x']}.gz"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz cannot be read"):
        mnist(str(tmp_path))


def test_images_and_labels_of_different_length_are_refused(tmp_path):
    made(tmp_path, train_y=np.arange(39) % 10)
    with pytest.raises(ValueError, match="40 pictures and 39 labels of the train part"):
        mnist(str(tmp_path))


def test_a_label_outside_its_classes_is_refused(tmp_path):
    made(tmp_path, train_y=np.arange(40) % 11)
    with pytest.raises(ValueError, match="train_y"):
        mnist(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"\x00\x00\x0d\x03" + bytes(20), b"not an idx file", b"\x00\x00\x08\x03\x00"])
def test_another_kind_of_file_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=r"is no idx file|is cut off"):
        read_idx(tmp_path / "x", 3)


def test_nothing_there_names_the_ways(tmp_path, monkeypatch):
    monkeypatch.setitem(SYSTEM, "fashion_mnist", tmp_path / "none")
    with pytest.raises(ValueError, match=r"dataset-fashion-mnist, .*data\.path.*data\.download=true"):
        fashion_mnist()
    answer = decm("train", "experiment=smoke", "data=mnist", "logger=csv", f"runs={tmp_path / 'runs'}")
    assert answer.code == 2
    assert "data.download=true" in answer.err
    assert not (tmp_path / "runs").exists()
