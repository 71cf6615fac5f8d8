"""Pictures: sizes and where every pixel comes to lie."""

import numpy as np
import pytest
import torch
from PIL import Image

from decm.evaluation.pictures import LABEL_WIDTH, ImagePainter, PointsPainter
from helpers import seeded


def painter(columns: int = 4, side: int = 8) -> ImagePainter:
    return ImagePainter(lambda x: x, columns, side)


def images(num: int, channels: int = 3, side: int = 4) -> torch.Tensor:
    return torch.randint(256, (num, channels, side, side), generator=seeded(0), dtype=torch.uint8)


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_lies_enlarged_in_its_cell_on_white(channels, tmp_path):
    """Six 4 x 4 images, enlarged to 8, with a border of 2, in rows of four: 2 x 12 by 4 x 12 pixels."""
    x = images(6, channels)
    painter().grid(x, tmp_path / "a.png")
    picture = read(tmp_path / "a.png")
    assert picture.shape == (24, 48, 3)
    for k in range(6):
        top, left = 12 * (k // 4), 12 * (k % 4)
        cell = picture[top : top + 12, left : left + 12]
        expected = x[k].permute(1, 2, 0).expand(-1, -1, 3).numpy().repeat(2, 0).repeat(2, 1)
        assert np.array_equal(cell[2:10, 2:10], expected)
        assert (cell[:2] == 255).all()
        assert (cell[:, 10:] == 255).all()
    assert (picture[12:, 24:] == 255).all()  # the two empty cells


def test_a_row_for_each_title_beside_its_label(tmp_path):
    a, b = images(4), images(4).flip(0)
    painter().compare({"1 step": a, "2 steps": b}, tmp_path / "a.png")
    picture = read(tmp_path / "a.png")
    assert picture.shape == (24, LABEL_WIDTH + 48, 3)
    painter().grid(a, tmp_path / "first.png")
    painter().grid(b, tmp_path / "second.png")
    assert np.array_equal(picture[:12, LABEL_WIDTH:], read(tmp_path / "first.png"))
    assert np.array_equal(picture[12:, LABEL_WIDTH:], read(tmp_path / "second.png"))
    for row in (picture[:12, :LABEL_WIDTH], picture[12:, :LABEL_WIDTH]):
        assert row.min() < 50  # a label is written


def test_large_images_are_not_enlarged(tmp_path):
    painter(2, side=8).grid(images(2, side=16), tmp_path / "a.png")
    assert read(tmp_path / "a.png").shape == (20, 40, 3)


def test_points_are_drawn_where_they_are(tmp_path):
    """A cloud in the upper right corner darkens that quarter of the axes alone."""
    PointsPainter(2.0).grid(torch.full((50, 2, 1, 1), 1.2), tmp_path / "a.png")
    picture = read(tmp_path / "a.png")[..., :3].astype(int)
    blue = (picture[..., 2] - picture[..., 0]) > 40
    rows, columns = np.nonzero(blue)
    assert len(rows) > 0
    assert rows.max() < picture.shape[0] / 2 < columns.min()
