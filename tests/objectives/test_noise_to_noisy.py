"""Noise-to-noisy: where it queries the field, its clamp, and its loss."""

import pytest
import torch

from decm.flow.exact import GaussianFlow
from decm.objectives.base import Segment
from decm.objectives.noise_to_noisy import NoiseToNoisy
from helpers import Counting, largest, no_labels, random_states, random_times, unguided

SHAPE = (3, 2, 2)


def case():
    """A segment r -> t, and a value and derivative that do not satisfy the law."""
    segment = Segment(random_states(4, SHAPE), random_times(4, 0, 0.1), random_times(4, 0.2, 1, seed=3), no_labels(4))
    return segment, 3 * random_states(4, SHAPE, seed=6), random_states(4, SHAPE, seed=7)


@pytest.mark.parametrize(("end", "start", "calls"), [(1, 0, 1), (0, 1, 1), (1, 0.5, 2)])
def test_field_is_queried_only_where_its_weight_is_not_zero_and_once_at_the_start(end, start, calls):
    net = Counting(GaussianFlow(0.7, 0.4))
    field, objective, (segment, F, dF) = unguided(net), NoiseToNoisy(end, start), case()
    objective.ask(segment, field)
    objective.aim(segment, F, dF, field)
    assert net.calls == calls


def test_field_known_at_the_start_is_not_queried_again():
    segment, F, dF = case()
    segment.v = random_states(4, SHAPE, seed=8)
    objective = NoiseToNoisy(0, 1)
    assert torch.equal(objective.ask(segment, None).tangents[0], segment.v)
    objective.aim(segment, F, dF, None)


def test_field_is_queried_at_the_students_own_end_point():
    seen = []

    def field(x, t, y):
        seen.append((x, t))
        return torch.zeros_like(x)

    segment, F, dF = case()
    NoiseToNoisy(1, 0).aim(segment, F, dF, field)
    span = (segment.end - segment.start).reshape(-1, 1, 1, 1)
    assert largest(seen[0][0] - (segment.x + span * F)) < 1e-14
    assert torch.equal(seen[0][1], segment.end)


@pytest.mark.parametrize("clamp", [None, 1.0, 0.3])
def test_step_is_the_tangent_clamped_elementwise(clamp):
    segment, F, dF = case()
    objective, field = NoiseToNoisy(1, 0.5, clamp), unguided(GaussianFlow(0.7, 0.4))
    aim = objective.aim(segment, F, dF, field)
    step = F - aim.target
    assert largest(aim.tangent) > 1
    limited = aim.tangent if clamp is None else aim.tangent.clamp(-clamp, clamp)
    assert largest(step - limited) < 1e-14
    assert largest(objective.measure(segment, F, aim) - limited.square().mean((1, 2, 3))) < 1e-12


@pytest.mark.parametrize(("end", "start"), [(0, 0), (-1, 1), (1, -0.5)])
def test_weights_that_cannot_be_meant_are_refused(end, start):
    with pytest.raises(ValueError, match="expected >= 0 and not both 0"):
        NoiseToNoisy(end, start)
