"""The moving picture shows what it says: the learned map by one call, the exact one beside it."""

import numpy as np
import torch
from PIL import Image

from decm.flow.exact import MixtureFlow, ring
from decm.flow.flow_map import FlowMap
from decm.report.movie import FRAMES, HEAD, POINTS, SIDE, exact_tracks, learned_tracks, write_movie

EXACT = MixtureFlow(ring(4, 1.0), 0.1, steps=50)


def test_the_exact_tracks_are_the_flow_map_at_each_time():
    z, learned = learned_tracks(FlowMap(EXACT), (2, 1, 1), seed=0, device="cpu")
    exact = exact_tracks(EXACT, z)
    assert learned.shape == exact.shape == (FRAMES, POINTS, 2)
    assert torch.equal(exact[0], z.flatten(1))
    assert float((exact - learned).abs().max()) < 1e-3  # where trajectories part
    wrong = learned_tracks(FlowMap(lambda x, t, s, y: 1.1 * EXACT(x, t, s)), (2, 1, 1), 0, "cpu")[1]
    assert float((exact - wrong).abs().max()) > 0.05


def colored(frame):
    """Where a frame has color, by panel."""
    pixels = np.asarray(frame.convert("RGB")).astype(int)[HEAD:]
    found = pixels.max(2) - pixels.min(2) > 60
    return found[:, :SIDE], found[:, SIDE:]


def test_the_panels_are_alike_where_the_maps_are(tmp_path):
    z, learned = learned_tracks(FlowMap(EXACT), (2, 1, 1), seed=0, device="cpu")
    exact = exact_tracks(EXACT, z)
    write_movie(learned, exact, tmp_path / "same.webp")
    write_movie(-0.5 * learned, exact, tmp_path / "other.webp")
    for name, alike in (("same.webp", True), ("other.webp", False)):
        with Image.open(tmp_path / name) as movie:
            assert (movie.n_frames, movie.size) == (FRAMES, (2 * SIDE, SIDE + HEAD))
            movie.seek(FRAMES - 1)
            left, right = colored(movie)
            assert min(left.sum(), right.sum()) > 500
            assert ((left ^ right).mean() < 0.01) == alike
    assert (tmp_path / "same.webp").stat().st_size < 600_000
