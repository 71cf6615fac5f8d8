"""Pictures to look at: grids of images, scatter plots of points, and the same seeds side by side across NFE."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

LABEL_WIDTH, PAD = 120, 2
LAYOUT = "decm"  # a PNG's text that says how its images lie: JSON of columns, count, pad, left and the rows' titles


class Painter(Protocol):
    """Draws samples."""

    columns: int

    def grid(self, samples: Tensor, path: Path) -> None:
        """Samples [N, ...] as one picture."""
        ...

    def compare(self, rows: Mapping[str, Tensor], path: Path) -> None:
        """The same seeds for each titled row of samples [columns, ...]."""
        ...


class ImagePainter:
    """Grids of images; `to_pixels` turns states into uint8 [N, C, H, W], small ones are enlarged."""

    def __init__(self, to_pixels: Callable[[Tensor], Tensor], columns: int = 10, side: int = 48) -> None:
        self.to_pixels, self.columns, self.side = to_pixels, columns, side

    def _tile(self, samples: Tensor) -> np.ndarray:
        pixels = self.to_pixels(samples)
        zoom = max(1, self.side // pixels.shape[-1])
        pixels = pixels.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
        pixels = torch.nn.functional.pad(pixels, (PAD, PAD, PAD, PAD), value=255)
        if pixels.shape[1] == 1:
            pixels = pixels.expand(-1, 3, -1, -1)
        missing = -len(pixels) % self.columns
        pixels = torch.cat([pixels, torch.full((missing, *pixels.shape[1:]), 255, dtype=torch.uint8)])
        rows, (C, H, W) = len(pixels) // self.columns, pixels.shape[1:]
        tiled = pixels.reshape(rows, self.columns, C, H, W).permute(0, 3, 1, 4, 2)
        return tiled.reshape(rows * H, self.columns * W, C).numpy()

    def _save(self, picture: Image.Image, path: Path, count: int, left: int = 0, titles: tuple[str, ...] = ()) -> None:
        metadata = {"columns": self.columns, "count": count, "pad": PAD, "left": left, "titles": titles}
        layout = PngInfo()
        layout.add_text(LAYOUT, json.dumps(metadata))
        picture.save(path, pnginfo=layout)  # which only a PNG has; other kinds leave it out

    def grid(self, samples: Tensor, path: Path) -> None:
        self._save(Image.fromarray(self._tile(samples)), path, len(samples))

    def compare(self, rows: Mapping[str, Tensor], path: Path) -> None:
        tiles = [self._tile(samples) for samples in rows.values()]
        height, width = sum(len(tile) for tile in tiles), tiles[0].shape[1]
        canvas = Image.new("RGB", (LABEL_WIDTH + width, height), "white")
        draw, top = ImageDraw.Draw(canvas), 0
        for title, tile in zip(rows, tiles, strict=True):
            draw.text((6, top + len(tile) // 2 - 6), title, fill="black")
            canvas.paste(Image.fromarray(tile), (LABEL_WIDTH, top))
            top += len(tile)
        self._save(canvas, path, self.columns, LABEL_WIDTH, tuple(rows))


class PointsPainter:
    """Scatter plots of 2-D points in [-limit, limit]^2."""

    columns = 2000

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def grid(self, samples: Tensor, path: Path) -> None:
        self.compare({"": samples}, path)

    def compare(self, rows: Mapping[str, Tensor], path: Path) -> None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(2.6 * len(rows), 2.8), layout="constrained")
        for axis, (title, samples) in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows.items(), strict=True):
            points = samples.flatten(1)
            axis.scatter(points[:, 0], points[:, 1], s=2, alpha=0.5, linewidths=0)
            axis.set(xlim=(-self.limit, self.limit), ylim=(-self.limit, self.limit), title=title, aspect="equal")
            axis.set_xticks([])
            axis.set_yticks([])
        figure.savefig(path, dpi=110)
