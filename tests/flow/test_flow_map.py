"""Reading a network as a flow map."""

import pytest
import torch

from decm.flow.exact import GaussianFlow
from decm.flow.flow_map import FlowMap
from helpers import largest, no_labels, random_labels, random_states, random_times, randomize_parameters, small_mlp

SHAPE = (2, 1, 1)


@pytest.fixture
def net():
    return randomize_parameters(small_mlp().double())


def test_map_from_a_time_to_itself_is_the_identity_for_any_network(net):
    x, t, y = random_states(8, SHAPE), random_times(8, 0, 1), random_labels(8)
    assert torch.equal(FlowMap(net)(x, t, t, y), x)
    assert largest(FlowMap(net)(x, t, t + 0.1, y) - x) > 1e-3


def test_map_is_the_state_plus_span_times_average_velocity(net):
    x, t, s, y = random_states(8, SHAPE), random_times(8, 0, 0.5), random_times(8, 0.5, 1, seed=3), random_labels(8)
    flow_map = FlowMap(net)
    F = flow_map.average_velocity(x, t, s, y)
    rows = torch.stack([x[i] + (s[i] - t[i]) * F[i] for i in range(8)])
    assert largest(flow_map(x, t, s, y) - rows) < 1e-15


def test_velocity_is_the_average_velocity_over_no_time(net):
    x, t, y = random_states(8, SHAPE), random_times(8, 0, 1), random_labels(8)
    assert torch.equal(FlowMap(net).velocity(x, t, y), net(x, t, t, y))


def test_exact_gaussian_flow_read_through_its_average_velocity_is_its_flow_map():
    flow = GaussianFlow(0.7, 0.4)
    x, t, s, y = random_states(32, SHAPE), random_times(32, 0, 1), random_times(32, 0, 1, seed=3), no_labels(32)
    assert largest(FlowMap(flow)(x, t, s, y) - flow.flow_map(x, t, s)) < 1e-12
    assert largest(FlowMap(flow)(x, s, t, y) - flow.flow_map(x, t, s)) > 1e-2


def test_unknown_engine_is_refused_by_name(net):
    with pytest.raises(ValueError, match=r"jvp='forward' is not an engine.*dual, split, finite_difference"):
        FlowMap(net, jvp="forward")
