"""Every picture is read, or refused by name: damaged files, unusual modes, metadata of any size, EXIF orientations."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from decm.data.image_files import ImageFile
from decm.data.making.images import load_image

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
MODES = ("RGB", "L", "1", "P", "RGBA", "LA", "PA", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I", "F")
Image.init()


def in_mode(mode):
    image = Image.fromarray(PIXELS)
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    if mode == "I;16":
        return Image.fromarray(np.array(image.convert("L")).astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(np.array(image.convert("L")).astype(np.int32) * 257)
    return image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)


def encoded(form, mode="RGB", **how):
    """The bytes of a file; None where the format does not have the mode."""
    buffer = io.BytesIO()
    try:
        in_mode(mode).save(buffer, form, **how)
    except (OSError, ValueError, KeyError, AttributeError, SyntaxError):
        return None
    return buffer.getvalue()


FORMATS = (
    sorted(  # without those of which Pillow writes no pixels here; ICNS is large, IM deprecated, EPS and PCX not read
        form
        for form in (set(Image.OPEN) & set(Image.SAVE) | {"MPO"}) - {"EPS", "PCX", "ICNS", "IM"}
        if any(encoded(form, mode) for mode in ("RGB", "P", "1"))
    )
)


@pytest.fixture
def read(tmp_path, monkeypatch):
    """The pixels of a file of these bytes, or the message of its refusal, which names the file."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)  # a changed header else asks for gigabytes
    path = tmp_path / "odd.png"

    def read(content, **how):
        path.write_bytes(content)
        try:
            pixels = load_image(ImageFile(path, 0), how.pop("side", None), **how)
        except ValueError as error:
            assert f"The image {path} cannot be decoded" in str(error)  # noqa: PT017, any other kind of error fails
            return str(error)
        assert pixels.dtype == torch.uint8
        assert pixels.ndim == 3
        assert len(pixels) == (1 if how.get("gray") else 3)
        return pixels.numpy()

    return read


def same(found, truth):
    return not isinstance(found, str) and found.shape == truth.shape and np.array_equal(found, truth)


def changed(content, rng):
    """One to three other bytes, as often in the first 120 as anywhere."""
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 1, 3))):
        damaged[rng.randrange(len(damaged) if rng.random() < 0.5 else min(120, len(damaged)))] = rng.randrange(256)
    return bytes(damaged)


@pytest.mark.filterwarnings("ignore:.*(EXIF|Metadata|Tag|expected size|exceeds limit|APNG|MPO)")
@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_file_is_a_picture_or_refused_by_name_and_a_truncated_one_never_another_picture(form, read):
    rng, files, refused = random.Random(form), 0, 0
    for mode in MODES:
        content = encoded(form, mode)
        if content is None:
            continue
        files, truth = files + 1, read(content)
        for _ in range(13):
            refused += isinstance(read(changed(content, rng)), str)
        for length in {
            *range(max(0, len(content) - 4), len(content)),
            *(rng.randrange(len(content)) for _ in range(18)),
        }:
            found = read(content[:length])
            refused += isinstance(found, str)
            assert isinstance(found, str) or same(found, truth), (mode, length)
    assert files
    assert refused > 5 * files


def test_a_png_with_a_changed_byte_in_its_pixels_is_refused(read):
    content, rng = encoded("PNG"), random.Random(0)
    truth, start = read(content), content.index(b"IDAT")
    for at in range(start, len(content) - 12):
        damaged = bytearray(content)
        damaged[at] ^= 1 << rng.randrange(8)
        assert isinstance(read(bytes(damaged)), str)
    assert same(read(content + b"more"), truth)


@pytest.mark.parametrize("gray", [True, False])
@pytest.mark.parametrize(
    ("form", "mode"),
    [("PNG", mode) for mode in ("1", "L", "P", "LA", "I;16")]
    + [("TIFF", "I"), ("PPM", "I"), ("TIFF", "LAB"), ("TIFF", "YCbCr"), ("TIFF", "PA"), ("JPEG", "CMYK")],
)
def test_an_unusual_mode_is_read_as_what_it_shows(form, mode, gray, read):
    truth = np.array(in_mode("L" if gray or mode in ("L", "LA", "I;16", "I") else "RGB")).astype(int)
    found = read(encoded(form, mode, **({"quality": 100} if form == "JPEG" else {})), gray=gray)
    error = np.abs(found.transpose(1, 2, 0) - truth.reshape(*truth.shape[:2], -1))
    dithered = mode in ("1", "P", "PA")  # of black and white, or few colors
    assert error.mean() < (130 if mode == "1" else 60 if dithered else 4 if form == "JPEG" or mode == "LAB" else 1.5)


@pytest.mark.parametrize(("mode", "what"), [("F", "floats"), ("I", "integers of 32 bits")])
def test_numbers_without_a_known_white_are_refused(mode, what, read):
    buffer, pixels = io.BytesIO(), PIXELS[..., 0].astype(np.float32 if mode == "F" else np.int32)
    Image.fromarray(pixels * 300).save(buffer, "TIFF")
    assert f"its pixels are {what}" in read(buffer.getvalue())


def header(width, height):
    """A PNG of a few bytes that says it is this large."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = zlib.compress(bytes((width + 1) * height)) if width * height < 1e6 else b""
    return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_picture_that_would_fill_the_memory_is_refused_by_name(read):
    assert "exceeds limit" in read(header(60_000, 60_000))
    assert "too different to be scaled to 256" in read(header(1, 15_000), side=256)
    assert read(header(1, 15_000), side=2).shape == (3, 2, 2)


TEXTS = {"short": "a", "3 MB": "x" * 3_000_000, "80 MB": "y" * 80_000_000}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("size", TEXTS)
def test_a_png_with_texts_and_profiles_of_any_size_is_read(size, zipped, read):
    """Pillow reads no text of more than 1 MB once unpacked, and no more than 64 MB of them."""
    if size == "80 MB" and not zipped:
        return
    info = PngInfo()
    info.add_text("note", TEXTS[size], zip=zipped)
    info.add_itxt("more", TEXTS["short"], zip=zipped)
    profile = TEXTS[size][:3_000_000].encode()
    assert same(read(encoded("PNG", pnginfo=info, icc_profile=profile)), read(encoded("PNG")))


def segment(marker, content):
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


SEGMENTS = {
    "profile cut short": segment(0xE2, b"ICC_PROFILE\0"),
    "JFIF cut short": segment(0xE0, b"JFIF\0\1"),
    "EXIF cut short": segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"),
    "no EXIF": segment(0xE1, b"Exif\0\0nothing"),
    "XMP": segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<\xff\xfe tiff:Orientation="99"'),
    "MPO": segment(0xE2, b"MPF\0II*\0\xff\xff\xff\xff"),
    "Photoshop": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0"),
    "filled": b"\xff\xff\xff" + segment(0xE2, b"ICC_PROFILE\0"),
}


@pytest.mark.filterwarnings("ignore:.*(EXIF|MPO)")
@pytest.mark.parametrize("name", SEGMENTS)
def test_a_jpeg_with_broken_metadata_is_read(name, read):
    content = encoded("JPEG")
    assert same(read(content[:2] + SEGMENTS[name] + content[2:]), read(content))


@pytest.mark.parametrize(("form", "mode"), [("EPS", "RGB"), ("PCX", "P")])
def test_a_format_that_starts_a_program_or_hides_truncation_is_not_read(form, mode, read):
    assert "no picture of a known format" in read(encoded(form, mode))


def test_profiles_of_a_megabyte_do_not_change_what_is_read(read):
    for form, how in (("JPEG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("AVIF", {})):
        assert same(read(encoded(form, icc_profile=b"p" * 1_000_000, **how)), read(encoded(form, **how)))


# What turns the pixels [H, W, 3] of each EXIF orientation upright; row 0 and column 0 are stored as these sides:
UPRIGHT = {
    1: lambda x: x,  # top, left
    2: lambda x: x[:, ::-1],  # top, right
    3: lambda x: x[::-1, ::-1],  # bottom, right
    4: lambda x: x[::-1],  # bottom, left
    5: lambda x: x.transpose(1, 0, 2),  # left, top
    6: lambda x: np.rot90(x, -1),  # right, top
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
    8: lambda x: np.rot90(x, 1),  # left, bottom
}


def oriented(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_picture_is_turned_as_its_exif_orientation_says(orientation, form, read):
    how = {"lossless": True} if form == "WEBP" else {}
    stored = read(encoded(form, **how)).transpose(1, 2, 0)
    content = encoded(form, exif=oriented(orientation), **how)
    upright = UPRIGHT[orientation](stored)
    assert same(read(content).transpose(1, 2, 0), upright)
    assert same(read(content, exif_orientation=False).transpose(1, 2, 0), stored)
    assert same(upright, stored) == (orientation == 1)


def test_the_turned_picture_is_cropped_and_not_the_stored_one(read):
    """Of 14 x 9 pixels the middle 9 x 9 are kept, whose rows and columns the orientation 6 exchanges."""
    middle = PIXELS[:, 2:11]
    assert same(read(encoded("PNG", exif=oriented(6)), side=9).transpose(1, 2, 0), np.rot90(PIXELS, -1)[2:11])
    assert same(read(encoded("PNG", exif=oriented(1)), side=9).transpose(1, 2, 0), middle)


@pytest.mark.filterwarnings("ignore:.*(EXIF|Tag)")
@pytest.mark.parametrize("form", ["PNG", "WEBP", "JPEG"])
def test_a_broken_exif_block_stops_no_picture(form, read):
    how, rng = {"lossless": True} if form == "WEBP" else {}, random.Random(form)
    stored = read(encoded(form, **how)).transpose(1, 2, 0)
    turns = [turn(stored) for turn in UPRIGHT.values()]
    for exif in (b"", b"Exif\0\0", b"Exif\0\0II*\0", *(changed(oriented(6), rng) for _ in range(100))):
        found = read(encoded(form, exif=exif, **how))
        assert any(same(found.transpose(1, 2, 0), turn) for turn in turns)
    for strange in (0, 9, 65535, (6, 3)):
        found = read(encoded(form, exif=oriented(strange), **how))
        assert any(same(found.transpose(1, 2, 0), turn) for turn in (turns[0], turns[5]))
