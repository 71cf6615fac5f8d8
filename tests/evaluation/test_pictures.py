"""Pictures: sizes and where every pixel comes to lie."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from decm.evaluation.images import center_crop, image_batches, list_images
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


def test_the_crop_is_the_center_at_the_asked_size():
    x = np.zeros((40, 60, 3), np.uint8)
    x[:, 20:40] = 200  # the middle third of the width
    cropped = np.asarray(center_crop(Image.fromarray(x), 20))
    assert cropped.shape == (20, 20, 3)
    assert (cropped[:, 6:14] == 200).all()  # half size: columns 10 to 20 of 30, of which 5 to 25 are kept
    assert (cropped[:, :4] == 0).all()
    assert (cropped[:, 16:] == 0).all()
    assert center_crop(Image.fromarray(x), 100).size == (100, 100)  # a small image is enlarged


def test_a_folder_is_read_in_the_order_of_its_paths_and_split_where_sizes_change(tmp_path):
    for name, side in (("b/1.png", 6), ("a/2.PNG", 4), ("a/1.png", 4), ("c.jpg", 6)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(images(1, 3, side)[0].permute(1, 2, 0).numpy()).save(tmp_path / name)
    (tmp_path / "many").mkdir()
    for k in torch.randperm(20, generator=seeded(1)).tolist():
        Image.new("RGB", (4, 4)).save(tmp_path / "many" / f"{k:02d}.png")
    assert [path.stem for path in list_images(tmp_path / "many")] == [f"{k:02d}" for k in range(20)]
    shutil.rmtree(tmp_path / "many")
    (tmp_path / "notes.txt").write_text("no image")
    paths = list_images(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == ["a/1.png", "a/2.PNG", "b/1.png", "c.jpg"]
    batches = list(image_batches(paths, None, 10))
    assert [tuple(batch.shape) for batch in batches] == [(2, 3, 4, 4), (2, 3, 6, 6)]
    assert torch.equal(batches[0][0], images(1, 3, 4)[0])
    assert [tuple(batch.shape) for batch in image_batches(paths, 5, 3)] == [(3, 3, 5, 5), (1, 3, 5, 5)]


def test_unreadable_images_and_empty_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        list_images(tmp_path / "absent")
    with pytest.raises(ValueError, match="holds no images"):
        list_images(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.png is not a readable image"):
        list(image_batches(list_images(tmp_path), None, 4))
