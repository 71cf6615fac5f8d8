"""Flow matching: rows at s = t without tangents, and its loss by hand."""

import pytest
import torch

from decm.objectives.base import Aim, Segment
from decm.objectives.flow_matching import FlowMatching
from helpers import largest, no_labels, random_states, random_times

SHAPE = (3, 2, 2)


@pytest.fixture
def segment():
    t = random_times(4, 0, 1)
    return Segment(random_states(4, SHAPE), t, t, no_labels(4), v=random_states(4, SHAPE, seed=5))


def test_it_asks_for_the_boundary_without_tangents(segment):
    rows = FlowMatching().ask(segment, None)
    assert rows.tangents is None
    assert torch.equal(rows.t, segment.start)
    assert torch.equal(rows.s, segment.start)


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.3])
def test_loss_is_mean_square_plus_weighted_cosine_distance_per_position(segment, weight):
    objective, F = FlowMatching(weight), random_states(4, SHAPE, seed=6)
    aim = objective.aim(segment, F, None, None)
    similarity = (F * segment.v).sum(1) / F.norm(dim=1) / segment.v.norm(dim=1)
    by_hand = (F - segment.v).square().mean((1, 2, 3)) + weight * (1 - similarity.mean((1, 2)))
    assert largest(objective.measure(segment, F, aim) - by_hand) < 1e-12


def test_cosine_sees_direction_alone(segment):
    doubled = FlowMatching(1.0).measure(segment, 2 * segment.v, Aim(segment.v, segment.v))
    assert largest(doubled - segment.v.square().mean((1, 2, 3))) < 1e-12
