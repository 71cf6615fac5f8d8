"""Pictures of a run folder, made ready to stand within a page: as data URIs, cut into rows, of bounded size."""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from decm.evaluation.pictures import LAYOUT

WIDEST = 1400  # pixels of a picture in a page


@dataclass(frozen=True)
class Embedded:
    """A picture as the page needs it; `plot`: one drawn on white, which a dark page turns over."""

    uri: str
    width: int
    height: int
    plot: bool = False
    small: bool = False  # enlarged pixels, to be kept sharp
    still: str = ""  # of a moving one: its last frame, for readers who want no motion


def layout_of(path: Path) -> dict[str, Any] | None:
    """{columns, count, pad, left, titles} of a picture of images; None for one that does not say."""
    with Image.open(path) as picture:
        picture.load()
        layout = picture.info.get(LAYOUT)
    return json.loads(layout) if layout else None


def rows_of(path: Path) -> dict[str, Image.Image]:
    """{title: its row} of a comparison of images, without labels and white gaps; {} for any other picture."""
    layout = layout_of(path) if path.is_file() else None
    if not layout or not layout["titles"]:
        return {}
    with Image.open(path) as opened:
        picture = opened.convert("RGB").crop((layout["left"], 0, *opened.size))
    height = picture.height // len(layout["titles"])
    parts = [picture.crop((0, k * height, picture.width, (k + 1) * height)) for k in range(len(layout["titles"]))]
    return {
        title: clear_gaps(part, 1, layout["columns"], layout["columns"], layout["pad"])
        for title, part in zip(layout["titles"], parts, strict=True)
    }


def samples_by_seed(path: Path, classes: int) -> tuple[list[str], list[list[Any]]]:
    """(columns, rows) of a table: sample i, its label, and its picture in each row of a comparison of images."""
    rows, found = rows_of(path), []
    if not rows:
        return [], []
    count = layout_of(path)["columns"]  # type: ignore[index]
    for k in range(count):
        cells = [
            row.crop((k * row.width // count, 0, (k + 1) * row.width // count, row.height)) for row in rows.values()
        ]
        found.append([k, k % classes if classes else None, *(cell.convert("RGB") for cell in cells)])
    return ["sample", "label", *rows], found


def grid_of(path: Path) -> Image.Image | None:
    """A grid of images without white gaps; None for any other picture."""
    layout = layout_of(path) if path.is_file() else None
    if not layout or layout["titles"]:
        return None
    with Image.open(path) as picture:
        rows = -(-layout["count"] // layout["columns"])
        return clear_gaps(picture, rows, layout["columns"], layout["count"], layout["pad"])


def clear_gaps(picture: Image.Image, rows: int, columns: int, count: int, pad: int) -> Image.Image:
    """A grid of images whose borders, `pad` wide, and empty cells are transparent."""
    pixels = np.asarray(picture.convert("RGBA")).copy()
    h, w = pixels.shape[0] // rows, pixels.shape[1] // columns
    y, x = np.arange(pixels.shape[0]), np.arange(pixels.shape[1])
    outside = [(at % side < pad) | (at % side >= side - pad) for at, side in ((y, h), (x, w))]
    empty = (y // h)[:, None] * columns + (x // w)[None, :] >= count
    pixels[..., 3] = np.where(outside[0][:, None] | outside[1][None, :] | empty, 0, 255)
    return Image.fromarray(pixels)


def embed(picture: Image.Image, limit: int, plot: bool = False) -> Embedded:
    """The picture within `limit` bytes: PNG where that fits, else WebP, smaller and smaller."""
    small = picture.width <= WIDEST and not plot
    content, kind = _png(picture), "png"
    width, quality = min(WIDEST, picture.width), 85
    while len(content) > limit and width > 16:
        small, kind = False, "webp"
        content = _webp(picture, width, quality)
        width, quality = (width, 60) if quality == 85 else (int(width * 0.7), 85)
    return Embedded(_uri(content, kind), picture.width, picture.height, plot, small)


def embed_file(path: Path, limit: int) -> Embedded:
    """A picture file as it looks, on white."""
    with Image.open(path) as picture:
        return embed(picture.convert("RGB"), limit, plot=True)


def embed_moving(path: Path, limit: int) -> Embedded | None:
    """A moving picture as it is, and its last frame; None where it is missing or larger than `limit` bytes."""
    if not path.is_file() or path.stat().st_size > limit:
        return None
    with Image.open(path) as picture:
        size = picture.size
        picture.seek(getattr(picture, "n_frames", 1) - 1)
        still = embed(picture.convert("RGB"), limit // 10, plot=True).uri
    return Embedded(_uri(path.read_bytes(), path.suffix[1:]), *size, plot=True, still=still)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=picture.width <= WIDEST)
    return buffer.getvalue()


def _webp(picture: Image.Image, width: int, quality: int) -> bytes:
    buffer = io.BytesIO()
    smaller = picture.resize((width, max(1, picture.height * width // picture.width)), Image.Resampling.LANCZOS)
    smaller.save(buffer, "WEBP", quality=quality, method=2)
    return buffer.getvalue()


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
