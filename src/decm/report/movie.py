"""The learned flow map beside the exact one, as a small moving picture of points in the plane."""

import colorsys
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from decm.flow.exact import MixtureFlow
from decm.flow.flow_map import FlowMap
from decm.flow.randomness import normal

POINTS, FRAMES, SIDE, HEAD = 400, 33, 300, 24
FAST, HOLD = 70, 1800  # milliseconds of a frame, and of the last one
ZOOM = 2  # drawn larger and reduced, so that edges are smooth
INK, PALE = (60, 62, 70), (205, 207, 214)


@torch.no_grad()
def learned_tracks(
    student: FlowMap, shape: Sequence[int], seed: int, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Noise z [POINTS, *shape], and f(z, 0, t) by one call of the network for each t of FRAMES: [FRAMES, POINTS, 2].

    All processes of a sharded student call it.
    """
    z = normal(seed, "movie", torch.arange(POINTS), tuple(shape)).to(device)
    zero, y = torch.zeros(POINTS, device=device), torch.zeros(POINTS, dtype=torch.int64, device=device)
    tracks = [student(z, zero, zero + t, y).flatten(1).cpu() for t in torch.linspace(0, 1, FRAMES).tolist()]
    return z.cpu(), torch.stack(tracks)


def exact_tracks(exact: MixtureFlow, z: Tensor) -> Tensor:
    """The exact f(z, 0, t) at the same times, [FRAMES, POINTS, 2], from each to the next: 256 steps in all."""
    flow = MixtureFlow(exact.means, exact.sigma, steps=8)
    x, found, times = z, [z.flatten(1)], torch.linspace(0, 1, FRAMES).tolist()
    for t, s in pairwise(times):
        x = flow.flow_map(x, torch.full((len(x),), t), torch.full((len(x),), s))
        found.append(x.flatten(1))
    return torch.stack(found)


def write_movie(learned: Tensor, exact: Tensor, path: Path) -> None:
    """Two panels over time, twice as wide as the data; a line leads from each learned point to where it should be."""
    limit = 2 * float(exact[-1].abs().max())
    colors = [_color(math.atan2(y, x)) for x, y in exact[-1].tolist()]
    frames = [
        _frame(learned[k].tolist(), exact[k].tolist(), colors, limit, k / (len(learned) - 1))
        for k in range(len(learned))
    ]
    durations = [FAST] * (len(frames) - 1) + [HOLD]
    frames[0].save(
        path,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=0,
        quality=70,
        method=2,
    )


def _color(angle: float) -> tuple[int, int, int]:
    r, g, b = colorsys.hls_to_rgb(angle / (2 * math.pi) % 1, 0.45, 0.65)
    return int(255 * r), int(255 * g), int(255 * b)


def _frame(
    learned: list[list[float]], exact: list[list[float]], colors: list[tuple[int, int, int]], limit: float, t: float
) -> Image.Image:
    side, head = SIDE * ZOOM, HEAD * ZOOM
    canvas = Image.new("RGB", (2 * side, side + head), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12 * ZOOM)

    def place(point: list[float], panel: int) -> tuple[float, float]:
        return (panel + 0.5 + point[0] / limit / 2) * side, head + (0.5 - point[1] / limit / 2) * side

    for point, aim in zip(learned, exact, strict=True):
        if max(map(abs, (*point, *aim))) <= limit:
            pen.line([place(point, 0), place(aim, 0)], fill=PALE, width=ZOOM)
    for panel, points in enumerate((learned, exact)):
        for point, color in zip(points, colors, strict=True):
            if max(map(abs, point)) > 0.99 * limit:
                continue
            x, y = place(point, panel)
            pen.ellipse([x - 2 * ZOOM, y - 2 * ZOOM, x + 2 * ZOOM, y + 2 * ZOOM], fill=color)
    for panel, name in enumerate(("learned, one call", "exact")):
        pen.text((panel * side + 8 * ZOOM, 5 * ZOOM), name, fill=INK, font=font)
    pen.text((2 * side - 60 * ZOOM, 5 * ZOOM), f"t = {t:.2f}", fill=INK, font=font)
    return canvas.resize((canvas.width // ZOOM, canvas.height // ZOOM), Image.Resampling.BOX)
