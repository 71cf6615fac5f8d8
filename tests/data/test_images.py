"""The crop is ADM's: the middle square, halved by boxes before the bicubic step."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from decm.data.image_files import ImageFile, find_images
from decm.data.making.images import center_crop, image_batches, load_image

SIZES = st.integers(1, 90)


def picture(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, st.integers(1, 24))
def test_the_result_is_a_square_of_the_side_asked_for(width, height, side):
    assert center_crop(picture(width, height), side).size == (side, side)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 255))
def test_a_constant_picture_stays_constant(wider, taller, value):
    image = Image.new("RGB", (17 + 9 * wider, 17 + 9 * taller), (value, value, value))
    assert set(np.array(center_crop(image, 16)).ravel().tolist()) == {value}


def test_a_picture_of_the_right_height_is_only_cut_in_the_middle():
    image = picture(30, 16)
    assert np.array_equal(np.array(center_crop(image, 16)), np.array(image)[:, 7:23])


def test_an_odd_rest_is_cut_more_on_the_right_and_below():
    wide, tall = picture(19, 16), picture(16, 19)
    assert np.array_equal(np.array(center_crop(wide, 16)), np.array(wide)[:, 1:17])
    assert np.array_equal(np.array(center_crop(tall, 16)), np.array(tall)[1:17])


@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_a_picture_of_a_power_of_two_times_the_side_is_averaged_over_boxes(halvings):
    image, step = picture(16 << halvings, 16 << halvings), 1 << halvings
    means = np.array(image).astype(float).reshape(16, step, 16, step, 3).mean((1, 3))
    assert np.abs(np.array(center_crop(image, 16)) - means).max() <= halvings  # each rounds twice, by rows and columns


def test_below_twice_the_side_no_box_average_comes_before_the_bicubic_step():
    image = picture(31, 31)
    assert np.array_equal(np.array(center_crop(image, 16)), np.array(image.resize((16, 16), Image.Resampling.BICUBIC)))
    double = picture(32, 32)
    bicubic = np.array(double.resize((16, 16), Image.Resampling.BICUBIC))
    assert not np.array_equal(np.array(center_crop(double, 16)), bicubic)


@settings(max_examples=30, deadline=None)
@given(st.integers(16, 80), st.integers(16, 80))
def test_it_equals_the_published_algorithm_written_over_arrays(width, height):
    image = picture(width, height)
    small = image
    while min(small.size) >= 32:
        small = small.resize(tuple(x // 2 for x in small.size), resample=Image.Resampling.BOX)
    scale = 16 / min(small.size)
    pixels = np.array(small.resize(tuple(round(x * scale) for x in small.size), resample=Image.Resampling.BICUBIC))
    y, x = (pixels.shape[0] - 16) // 2, (pixels.shape[1] - 16) // 2
    assert np.array_equal(np.array(center_crop(image, 16)), pixels[y : y + 16, x : x + 16])


def test_a_batch_ends_where_the_size_of_the_pictures_changes(tmp_path):
    for name, side in (("b/1.png", 6), ("a/2.PNG", 4), ("a/1.png", 4), ("c/0.jpg", 6)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(side, side).save(tmp_path / name)
    files, _, _ = find_images(tmp_path)
    batches = list(image_batches(files, partial(load_image, side=None), 10))
    assert [tuple(batch.shape) for batch in batches] == [(2, 3, 4, 4), (2, 3, 6, 6)]
    assert np.array_equal(batches[0][0].permute(1, 2, 0), np.array(picture(4, 4)))
    batches = list(image_batches(files, partial(load_image, side=5), 3))
    assert [tuple(batch.shape) for batch in batches] == [(3, 3, 5, 5), (1, 3, 5, 5)]


def loaded(path, image, gray=False, **how):
    """An image as it comes back from a file."""
    image.save(path, **how)
    return np.array(load_image(ImageFile(path, 0), None, gray))


@pytest.mark.parametrize("gray", [True, False])
def test_sixteen_bits_are_scaled_to_eight(tmp_path, gray):
    """0 to 65535 in steps of 257 are 0 to 255; a plain conversion would make all from 256 on white."""
    deep = Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16))
    found = loaded(tmp_path / "deep.png", deep, gray)
    with Image.open(tmp_path / "deep.png") as image:
        assert image.mode.startswith("I")
    assert found.shape == (1 if gray else 3, 16, 16)
    assert [np.array_equal(channel.ravel(), np.arange(256)) for channel in found] == [True] * len(found)


def test_a_transparent_value_of_sixteen_bits_is_white(tmp_path):
    deep = Image.fromarray(np.array([[0, 512], [257, 65535]], np.uint16))
    assert loaded(tmp_path / "deep.png", deep, True, transparency=512).tolist() == [[[0, 255], [1, 255]]]


@pytest.mark.parametrize("gray", [True, False])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_what_is_transparent_lies_on_white(tmp_path, mode, gray):
    """Black that is opaque, half and fully transparent; of P, RGB and L only one value is transparent, and fully so."""
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[..., 3] = (255, 128, 0)
    expected, how = [0, 127, 255], {}
    if mode in ("RGBA", "LA"):
        image = Image.fromarray(rgba).convert(mode)
    else:
        image, expected = Image.new(mode, (3, 1)), [0, 0, 255]
        black, dark = {"P": (0, 1), "L": (0, 1)}.get(mode, ((0, 0, 0), (1, 1, 1)))
        image.putdata([black, black, dark])
        if mode == "P":
            image.putpalette([0, 0, 0, 1, 1, 1])
        how["transparency"] = dark
    for channel in loaded(tmp_path / "clear.png", image, gray, **how):
        assert channel.tolist() == [expected]


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK"])
def test_an_opaque_picture_comes_back_as_pillow_converts_it(tmp_path, mode):
    image = picture(9, 7).convert(mode)
    path = tmp_path / ("plain.jpg" if mode == "CMYK" else "plain.png")
    found = loaded(path, image)
    with Image.open(path) as again:
        assert np.array_equal(found.transpose(1, 2, 0), np.array(again.convert("RGB")))
