"""The straight path."""

import pytest
import torch

from decm.flow.path import conditional_velocity, expand, interpolate
from helpers import largest, random_states, random_times

SHAPE = (3, 4, 4)


@pytest.fixture
def ends():
    return random_states(6, SHAPE, seed=0), random_states(6, SHAPE, seed=1)


def test_noise_is_at_time_0_and_data_at_time_1(ends):
    x, z = ends
    zero, one = torch.zeros(6, dtype=x.dtype), torch.ones(6, dtype=x.dtype)
    assert torch.equal(interpolate(x, z, zero), z)
    assert torch.equal(interpolate(x, z, one), x)
    assert largest(interpolate(z, x, zero) - z) > 0.1, "the exchanged ends must be seen"


def test_each_sample_has_its_own_time(ends):
    x, z = ends
    t = random_times(6, 0, 1)
    rows = [(1 - t[i]) * z[i] + t[i] * x[i] for i in range(6)]
    assert largest(interpolate(x, z, t) - torch.stack(rows)) < 1e-15


def test_conditional_velocity_is_the_paths_derivative(ends):
    x, z = ends
    t, h = random_times(6, 0.1, 0.9), 1e-3
    slope = (interpolate(x, z, t + h) - interpolate(x, z, t - h)) / (2 * h)
    assert largest(slope - conditional_velocity(x, z)) < 1e-11
    assert largest(slope - conditional_velocity(z, x)) > 0.1


@pytest.mark.parametrize("shape", [(), (2,), (2, 1, 1), (3, 8, 8)])
def test_expanded_times_broadcast_over_the_state_alone(shape):
    x, t = torch.zeros(4, *shape), torch.arange(4.0)
    assert expand(t, x).shape == (4, *(1 for _ in shape))
    assert torch.equal((x + expand(t, x)).reshape(4, -1)[:, 0], t)
