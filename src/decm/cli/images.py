"""Pictures from files to tensors."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from decm.data.image_files import IMAGES, ImageFile


def center_crop(image: Image.Image, side: int) -> Image.Image:
    """The middle square, `side` pixels wide, as ADM's evaluation and LightningDiT's extraction cut it.

    Halve by box averages while the shorter side is at least 2 `side`, scale the shorter side to `side` (bicubic), crop.
    """
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def opaque(image: Image.Image) -> Image.Image:
    """The image at 8 bits a channel, on white where it is transparent; any other stays as it is."""
    if image.mode.startswith("I"):  # one channel of 16 bits, which Pillow would cut off at 255
        pixels = np.array(image).astype(np.float64)
        if "transparency" in image.info:
            pixels[pixels == image.info["transparency"]] = 65535
        return Image.fromarray((pixels / 257).round().clip(0, 255).astype(np.uint8))
    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)


def load_image(file: ImageFile, side: int | None, gray: bool = False) -> Tensor:
    """uint8 [3 or 1, H, W] of an image file, cropped to `side` if set. Raises ValueError, by name, if it is broken."""
    try:
        with Image.open(io.BytesIO(file.read())) as image:
            picture = opaque(image).convert("L" if gray else "RGB")
            cropped = center_crop(picture, side) if side else picture
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise ValueError(f"The image {file} cannot be decoded ({error}). Mend or remove it.") from error
    return torch.from_numpy(np.array(cropped)).reshape(cropped.height, cropped.width, -1).permute(2, 0, 1)


def list_images(folder: str | Path) -> list[Path]:
    """The image files below a folder, in the order of their paths. Raises ValueError if there are none."""
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"The folder of images {str(folder)!r} does not exist.")
    found = [path for path in root.rglob("*") if path.suffix.lower() in IMAGES and path.is_file()]
    if not found:
        raise ValueError(f"{str(folder)!r} holds no images ({', '.join(IMAGES)}).")
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def image_batches(paths: Sequence[Path], size: int | None, batch_size: int) -> Iterator[Tensor]:
    """uint8 [<= batch_size, 3, H, W] in order; a batch ends early where the images' sizes change."""
    batch: list[Tensor] = []
    for path in paths:
        image = load_image(ImageFile(path, 0), size)
        if batch and (len(batch) == batch_size or batch[0].shape != image.shape):
            yield torch.stack(batch)
            batch = []
        batch.append(image)
    if batch:
        yield torch.stack(batch)
