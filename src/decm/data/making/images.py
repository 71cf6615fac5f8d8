"""Pictures from files to tensors, by the same functions for `decm data`, `reference` and `latents encode`."""

import io
import threading
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from decm.data.image_files import ImageFile

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # the chunks of a PNG on which its pixels depend
TURNS = {  # by the EXIF orientation of a stored picture: what turns it upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LARGEST = 2**27  # pixels of a scaled picture
# What Pillow only warns of, but what may change the pixels of a TIFF: a tag that it leaves out.
LEFT_OUT = "Tag offset too large|Tag data larger than file|(Possibly c|C)orrupt EXIF data|Truncated File Read"
WARNINGS = threading.Lock()  # their filters are those of the whole process
Load = Callable[[ImageFile], Tensor]


def center_crop(image: Image.Image, side: int) -> Image.Image:
    """The middle square, `side` pixels wide, as ADM's evaluation and LightningDiT's extraction cut it.

    Halve by box averages while the shorter side is at least 2 `side`, scale the shorter side to `side` (bicubic), crop.
    """
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    if max(image.size) * scale * side > LARGEST:
        raise ValueError(
            f"its sides, {image.width} and {image.height} pixels, are too different to be scaled to {side}"
        )
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def opaque(image: Image.Image) -> Image.Image:
    """The image at 8 bits a channel, on white where it is transparent; LAB as RGB; any other stays as it is.

    Raises ValueError for numbers of which the file does not say what is white: floats, and more than 16 bits.
    """
    if image.mode in ("F", "I"):
        low, high = (float(bound) for bound in image.getextrema())  # type: ignore[arg-type]
        if image.mode == "F" or not 0 <= low <= high <= 65535:
            kind = "floats" if image.mode == "F" else "integers of 32 bits"
            raise ValueError(f"its pixels are {kind}, from {low:g} to {high:g}; expected 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # one channel of 16 bits, which Pillow would cut off at 255
        pixels = np.array(image).astype(np.float64)
        if "transparency" in image.info:
            pixels[pixels == image.info["transparency"]] = 65535
        return Image.fromarray((pixels / 257).round().clip(0, 255).astype(np.uint8))
    if image.mode == "LAB":  # which becomes gray by way of RGB alone
        return image.convert("RGB")
    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)


def upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation turns it; one without a readable orientation as it is stored."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow's readers of metadata raise many kinds; the pixels do not depend on it
        orientation = None
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


@cache
def formats() -> list[str]:
    """The formats that are read: Pillow's, without EPS and PCX.

    EPS starts another program (Ghostscript); PCX has its palette at its end, and is read as gray where that is cut off.
    """
    Image.init()
    return [name for name in Image.ID if name not in ("EPS", "PCX")]


def png_pixels(png: bytes) -> bytes:
    """A PNG without its metadata. Raises ValueError if it is cut off, or a checksum of its pixels is wrong."""
    kept, at, kind = [PNG], len(PNG), b""
    while kind != b"IEND":
        kind, end = png[at + 4 : at + 8], at + 12 + int.from_bytes(png[at : at + 4], "big")
        if not kind or end > len(png):
            raise ValueError(f"it ends at byte {len(png)}, within a chunk")
        if kind in PIXELS:
            if zlib.crc32(png[at + 4 : end - 4]) != int.from_bytes(png[end - 4 : end], "big"):
                raise ValueError(f"the checksum of its chunk {kind.decode()} at byte {at} is wrong")
            kept.append(png[at:end])
        at = end
    return b"".join(kept)


def jpeg_pixels(jpeg: bytes) -> bytes:
    """A JPEG without the segments of applications (but for Adobe's, which says what its colors are) and comments."""
    kept, at = [jpeg[:2]], 2
    while jpeg[at : at + 1] == b"\xff" and (marker := jpeg[at + 1 : at + 2]) not in (b"", b"\xda"):  # until the scan
        end = at + 1 if marker == b"\xff" else at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if not (b"\xe0" <= marker <= b"\xed" or marker in (b"\xef", b"\xfe")):
            kept.append(jpeg[at:end])
        at = end
    return b"".join(kept) + jpeg[at:]


def open_image(content: bytes) -> Image.Image:
    """The image of a file's content, loaded; metadata that Pillow cannot read are ignored."""
    if content.startswith(TIFF):
        with WARNINGS, warnings.catch_warnings():
            warnings.filterwarnings("error", LEFT_OUT)
            return loaded(content)
    bare = png_pixels(content) if content.startswith(PNG) else content
    try:
        return loaded(content)
    except Exception:  # perhaps for a text or a color profile: too long for Pillow, or broken
        return loaded(jpeg_pixels(content) if content.startswith(JPEG) else bare)


def loaded(content: bytes) -> Image.Image:
    """What Pillow makes of a file's content."""
    image = Image.open(io.BytesIO(content), formats=formats())
    image.load()
    return image


def load_image(file: ImageFile, side: int | None, gray: bool = False, exif_orientation: bool = True) -> Tensor:
    """uint8 [3 or 1, H, W] of an image file: turned upright, on white, cropped to `side` if set.

    `exif_orientation=False` leaves it as it is stored, which is how ADM's and LightningDiT's code reads pictures. Of a
    moving picture it is the first frame. Raises ValueError, by name, for whatever cannot be decoded.
    """
    content = file.read()
    try:
        image = open_image(content)
        picture = opaque(upright(image) if exif_orientation else image).convert("L" if gray else "RGB")
        cropped = center_crop(picture, side) if side else picture
        pixels = torch.from_numpy(np.array(cropped)).reshape(cropped.height, cropped.width, -1).permute(2, 0, 1)
    except Exception as error:  # Pillow's decoders raise many kinds; whichever it is, this file is the cause
        reason = "it is no picture of a known format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ValueError(
            f"The image {file} cannot be decoded ({reason or type(error).__name__}). Mend or remove it, or set "
            "on_corrupt=skip to leave out what is damaged."
        ) from error
    return pixels


def intact(files: Sequence[ImageFile], load: Load, on_corrupt: str, workers: int = 1) -> tuple[list[ImageFile], str]:
    """(files to read, what to say of the others): all with `raise`, with `skip` those that `load` can read.

    `skip` reads every file once, in so many threads, so that number and order are known before any is used. Raises
    ValueError for another word, and where no image of a label is left.
    """
    if on_corrupt not in ("raise", "skip"):
        raise ValueError(f"on_corrupt={on_corrupt!r} is unknown; expected raise or skip.")
    if on_corrupt == "raise":
        return list(files), ""

    def problem(file: ImageFile) -> str:
        try:
            load(file)
        except ValueError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(workers) as pool:
        problems = list(pool.map(problem, files))
    kept = [file for file, found in zip(files, problems, strict=True) if not found]
    damaged = [found for found in problems if found]
    left = Counter(file.label for file in kept)
    lost = [file for file in files if not left[file.label]]
    if lost:
        raise ValueError(f"No image of the class of {lost[0]} can be decoded: {damaged[0]}")
    note = f"Skipped {len(damaged)} damaged images of {len(files)} (on_corrupt=skip)."
    return kept, f"{note} The first: {damaged[0]}" if damaged else ""


def image_batches(files: Sequence[ImageFile], load: Load, batch_size: int) -> Iterator[Tensor]:
    """uint8 [<= batch_size, 3, H, W] in order; a batch ends early where the images' sizes change."""
    batch: list[Tensor] = []
    for file in files:
        image = load(file)
        if batch and (len(batch) == batch_size or batch[0].shape != image.shape):
            yield torch.stack(batch)
            batch = []
        batch.append(image)
    if batch:
        yield torch.stack(batch)
