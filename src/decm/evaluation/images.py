"""Folders of images as uint8 batches, in one order on every machine."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff"}


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The central square of side `size`, as ADM does it: halve by box filtering, then bicubic, then crop."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def list_images(folder: str | Path) -> list[Path]:
    """The image files below a folder, in the order of their paths. Raises ValueError if there are none."""
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"The folder of images {str(folder)!r} does not exist.")
    found = [path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not found:
        raise ValueError(f"{str(folder)!r} holds no images ({', '.join(sorted(SUFFIXES))}).")
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def read_image(path: Path, size: int | None) -> Tensor:
    """uint8 [3, H, W], cropped to `size` unless None. Raises ValueError that names an unreadable file."""
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # unidentified and truncated: OSErrors
        raise ValueError(f"{path} is not a readable image: {error}.") from error
    return torch.from_numpy(np.array(center_crop(picture, size) if size else picture)).permute(2, 0, 1)


def image_batches(paths: Sequence[Path], size: int | None, batch_size: int) -> Iterator[Tensor]:
    """uint8 [<= batch_size, 3, H, W] in order; a batch ends early where the images' sizes change."""
    batch: list[Tensor] = []
    for path in paths:
        image = read_image(path, size)
        if batch and (len(batch) == batch_size or batch[0].shape != image.shape):
            yield torch.stack(batch)
            batch = []
        batch.append(image)
    if batch:
        yield torch.stack(batch)
