"""Pictures of a run within a page: cut where their own text says, nothing but the white gaps removed."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from decm.evaluation.pictures import PointsPainter
from decm.report.pictures import embed, embed_file, embed_moving, grid_of, layout_of, rows_of
from run_folders import images, painter


def opened(embedded):
    return Image.open(io.BytesIO(base64.b64decode(embedded.uri.split(",", 1)[1])))


def test_a_row_is_its_images_with_clear_gaps(tmp_path):
    a, b = images(4, 0), images(4, 1)
    painter().compare({"teacher, 2": a, "1 step": b}, tmp_path / "a.png")
    rows = rows_of(tmp_path / "a.png")
    assert list(rows) == ["teacher, 2", "1 step"]
    for row, expected in zip(rows.values(), (a, b), strict=True):
        pixels = np.asarray(row)
        assert pixels.shape == (12, 4 * 12, 4)
        for k in range(4):
            cell = pixels[:, 12 * k : 12 * (k + 1)]
            assert np.array_equal(cell[2:10, 2:10, 0], expected[k, 0].numpy())
            assert (cell[2:10, 2:10, 3] == 255).all()
            assert cell[..., 3].sum() == 255 * 64


def test_a_grid_has_clear_gaps_and_empty_cells(tmp_path):
    x = images(6)
    painter().grid(x, tmp_path / "a.png")
    pixels = np.asarray(grid_of(tmp_path / "a.png"))
    assert pixels[..., 3].sum() == 255 * 64 * 6
    assert np.array_equal(pixels[14:22, 2:10, 0], x[4, 0].numpy())
    assert layout_of(tmp_path / "a.png")["count"] == 6


def test_pictures_that_say_nothing_of_their_layout_are_no_rows_and_no_grid(tmp_path):
    PointsPainter(2.0).compare({"1 step": torch.zeros(5, 2, 1, 1)}, tmp_path / "points.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "plain.png")
    for name in ("points.png", "plain.png", "missing.png"):
        assert rows_of(tmp_path / name) == {}
        assert grid_of(tmp_path / name) is None
    painter().grid(images(4), tmp_path / "grid.png")
    assert rows_of(tmp_path / "grid.png") == {}


def test_what_fits_is_embedded_pixel_by_pixel():
    picture = Image.fromarray(images(1)[0, 0].numpy())
    embedded = embed(picture, 100_000)
    assert np.array_equal(np.asarray(opened(embedded)), np.asarray(picture))
    assert (embedded.small, embedded.plot, embedded.width) == (True, False, 8)


@pytest.mark.parametrize("limit", [200_000, 20_000, 2_000])
def test_what_does_not_fit_becomes_smaller_until_it_does(limit):
    noise = Image.fromarray(np.random.RandomState(0).randint(0, 256, (600, 900, 3), dtype=np.uint8))
    embedded = embed(noise, limit)
    content = base64.b64decode(embedded.uri.split(",", 1)[1])
    assert len(content) <= limit
    assert opened(embedded).width / opened(embedded).height == pytest.approx(1.5, rel=0.1)
    assert not embedded.small


def test_a_picture_drawn_on_white_says_so(tmp_path):
    PointsPainter(2.0).grid(torch.zeros(5, 2, 1, 1), tmp_path / "points.png")
    assert embed_file(tmp_path / "points.png", 10**6).plot


def test_a_moving_picture_has_its_last_frame_as_a_still(tmp_path):
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    moving = embed_moving(tmp_path / "a.webp", 10**6)
    still = Image.open(io.BytesIO(base64.b64decode(moving.still.split(",", 1)[1])))
    assert still.getpixel((5, 5)) == (0, 0, 255)
    assert opened(moving).n_frames == 2
    assert embed_moving(tmp_path / "a.webp", 10) is None
    assert embed_moving(tmp_path / "b.webp", 10) is None
