"""Pictures from files to tensors."""

import io

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from decm.data.image_files import ImageFile


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


def load_image(file: ImageFile, side: int) -> Tensor:
    """uint8 [3, side, side] of an image file, cropped. Raises ValueError, by name, for one that cannot be decoded."""
    try:
        with Image.open(io.BytesIO(file.read())) as image:
            cropped = center_crop(image.convert("RGB"), side)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise ValueError(f"The image {file} cannot be decoded ({error}). Mend or remove it.") from error
    return torch.from_numpy(np.array(cropped)).permute(2, 0, 1)
