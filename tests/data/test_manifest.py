"""A manifest says what a data set is, and which network fits it."""

from dataclasses import replace

import pytest
import torch

from decm.data.manifest import Manifest, content_hash, read_manifest, to_pixels

MANIFEST = Manifest(
    name="set",
    shape=(3, 4, 4),
    num_classes=7,
    mean=(0.5, 0.4, 0.3),
    std=(0.5, 0.25, 0.2),
    split={"train": 9},
    content_hash="hash",
    origin="here",
    extra={"a": 1},
)


def test_what_is_written_is_read(tmp_path):
    MANIFEST.write(tmp_path)
    assert read_manifest(tmp_path) == MANIFEST


def test_every_pixel_value_survives_normalization():
    """All 256 values in each channel."""
    pixels = torch.arange(256, dtype=torch.uint8).reshape(16, 1, 4, 4).expand(16, 3, 4, 4)
    mean, std = (torch.tensor(value)[:, None, None] for value in (MANIFEST.mean, MANIFEST.std))
    x = (pixels / 255 - mean) / std
    assert torch.equal(to_pixels(x, MANIFEST), pixels)
    assert not torch.equal(to_pixels(x, replace(MANIFEST, std=(0.5, 0.25, 0.21))), pixels)


def test_pixels_are_rounded_and_clipped():
    one = Manifest(
        name="one", shape=(1, 1, 1), num_classes=0, mean=(0.0,), std=(1.0,), split={}, content_hash="", origin=""
    )
    x = torch.tensor([-3.0, 0.4999 / 255, 0.5001 / 255, 1.0, 7.0]).reshape(-1, 1, 1, 1)
    assert to_pixels(x, one).flatten().tolist() == [0, 0, 1, 255, 255]


def test_content_hash_sees_values_shapes_types_and_order():
    a, b = torch.arange(6.0), torch.arange(4)
    hashes = {
        content_hash(a, b),
        content_hash(b, a),
        content_hash(a.reshape(2, 3), b),
        content_hash(a.double(), b),
        content_hash(a + 1e-6, b),
        content_hash(a),
    }
    assert len(hashes) == 6
    assert content_hash(a, b) == content_hash(a.clone(), b.clone())


def test_content_hash_is_of_values_not_of_memory_layout():
    a = torch.arange(6.0).reshape(2, 3)
    assert content_hash(a.T.contiguous().T) == content_hash(a)


def test_a_network_of_the_same_shape_and_classes_fits():
    MANIFEST.check_fits((3, 4, 4), 7)


@pytest.mark.parametrize(("shape", "classes"), [((3, 4, 5), 7), ((1, 4, 4), 7), ((3, 4, 4), 6)])
def test_another_network_does_not_fit(shape, classes):
    with pytest.raises(ValueError, match=r"'set' has states of shape \(3, 4, 4\) and 7 classes"):
        MANIFEST.check_fits(shape, classes)
