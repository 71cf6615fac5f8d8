"""2-D mixtures: endless samples by index, and the exact flow to them."""

import pytest
import torch

from decm.data.toy import MixturePoints
from decm.flow.randomness import normal

RING = ("ring", 8, 1.4, 0.1)
GRID = ("grid", 9, 1.2, 0.1)


@pytest.mark.parametrize("facts", [RING, GRID])
def test_sample_i_is_the_same_in_any_batch(facts):
    index = torch.tensor([5, 900, 3])
    x, _ = MixturePoints(*facts).batch(0, index)
    for k, i in enumerate(index):
        assert torch.equal(MixturePoints(*facts).batch(0, i.reshape(1))[0][0], x[k])
    assert not torch.equal(MixturePoints(*facts).batch(1, index)[0], x)


@pytest.mark.parametrize("facts", [RING, GRID])
def test_points_are_the_mixture(facts):
    """Each component gets its share, with the right centre and width."""
    points = MixturePoints(*facts)
    x = points.batch(0, torch.arange(4000))[0].flatten(1)
    nearest = torch.cdist(x.double(), points.means).argmin(1)
    for k, mean in enumerate(points.means):
        own = x[nearest == k].double()
        assert abs(len(own) / len(x) - 1 / len(points.means)) < 0.03
        assert (own.mean(0) - mean).abs().max() < 0.02
        assert (own.std(0) - 0.1).abs().max() < 0.015


@pytest.mark.parametrize("facts", [RING, GRID])
def test_the_exact_flow_carries_noise_to_the_points(facts):
    """At time 1 every noise lies within reach of a component, evenly."""
    points = MixturePoints(*facts)
    z = normal(0, "test", torch.arange(1000), (2, 1, 1))
    x = points.exact_flow().flow_map(z, torch.zeros(1000), torch.ones(1000)).flatten(1).double()
    distance, nearest = torch.cdist(x, points.means).min(1)
    assert distance.square().mean().sqrt() == pytest.approx(0.1 * 2**0.5, rel=0.1)
    assert (nearest.bincount(minlength=len(points.means)) / 1000 - 1 / len(points.means)).abs().max() < 0.05


def test_streams_of_different_purposes_differ():
    points, index = MixturePoints(*RING), torch.arange(4)
    assert not torch.equal(points.points(0, "data", index), points.points(0, "reference", index))


def test_mixtures_are_unconditional_and_hashed_by_their_facts():
    ring, wider = MixturePoints(*RING), MixturePoints("ring", 8, 1.4, 0.2)
    assert ring.manifest.num_classes == 0
    assert ring.batch(0, torch.arange(4))[1].tolist() == [0] * 4
    assert ring.manifest.content_hash != wider.manifest.content_hash
    assert ring.manifest.content_hash == MixturePoints(*RING).manifest.content_hash


@pytest.mark.parametrize("facts", [("grid", 8, 1.0, 0.1), ("spiral", 9, 1.0, 0.1), ("ring", 0, 1.0, 0.1)])
def test_an_impossible_layout_is_an_error(facts):
    with pytest.raises(ValueError, match="expected ring, or grid of a square number"):
        MixturePoints(*facts)
