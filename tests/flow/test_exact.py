"""The exact flows are flows: identities, closed forms, an independent solver, and transported samples."""

import pytest
import torch
from torchdiffeq import odeint

from decm.flow.exact import GaussianFlow, MixtureFlow, grid, ring
from decm.flow.path import expand
from helpers import largest, random_states, random_times, relative_error, seeded

SHAPE = (2, 1, 1)
GAUSSIAN = GaussianFlow(0.7, 0.4)
MIXTURE = MixtureFlow(ring(8, 1.4), 0.1)
FLOWS = pytest.mark.parametrize(("flow", "tolerance"), [(GAUSSIAN, 1e-12), (MIXTURE, 1e-5)], ids=["gaussian", "ring"])


def three_times(batch):
    return [random_times(batch, *span, seed=k) for k, span in enumerate([(0, 0.3), (0.3, 0.6), (0.6, 1)])]


@FLOWS
def test_map_from_a_time_to_itself_is_the_identity(flow, tolerance):
    x, t = random_states(16, SHAPE), random_times(16, 0, 1)
    assert largest(flow.flow_map(x, t, t) - x) < tolerance


@FLOWS
def test_two_jumps_are_one(flow, tolerance):
    x, (t, s, u) = random_states(16, SHAPE), three_times(16)
    there = flow.flow_map(x, t, s)
    assert largest(flow.flow_map(there, s, u) - flow.flow_map(x, t, u)) < tolerance
    assert largest(flow.flow_map(there, t, u) - flow.flow_map(x, t, u)) > 1e-2


@FLOWS
def test_map_is_undone_by_the_map_back(flow, tolerance):
    x, (t, _, u) = random_states(16, SHAPE), three_times(16)
    u = u * 0.9  # the ring's last tenth amplifies errors 10 times on the way back
    assert largest(flow.flow_map(flow.flow_map(x, t, u), u, t) - x) < tolerance


@FLOWS
def test_velocity_is_the_maps_derivative_in_its_end(flow, tolerance):
    x, t, h = random_states(16, SHAPE), random_times(16, 0.05, 0.9), 1e-4
    slope = (flow.flow_map(x, t, t + h) - flow.flow_map(x, t, t - h)) / (2 * h)
    assert largest(slope - flow.velocity(x, t)) < 1e-5
    assert largest(slope + flow.velocity(x, t)) > 1e-1


@FLOWS
def test_average_velocity_is_displacement_over_time_and_velocity_at_no_time(flow, tolerance):
    x, (t, _, u) = random_states(16, SHAPE), three_times(16)
    assert largest(x + expand(u - t, x) * flow(x, t, u) - flow.flow_map(x, t, u)) < 1e-12
    assert largest(flow(x, t, t) - flow.velocity(x, t)) < 1e-12
    assert relative_error(flow(x, t, t + 1e-6), flow.velocity(x, t)) < 1e-4
    some = torch.where(torch.arange(16) % 2 == 0, t, u)
    mixed = flow(x, t, some)
    assert largest(mixed[::2] - flow.velocity(x, t)[::2]) < 1e-12
    assert largest(mixed[1::2] - flow(x, t, u)[1::2]) < 1e-12


def test_gaussian_map_carries_noise_to_the_right_mean_and_deviation():
    z = random_states(100_000, (1,))
    zero, one = torch.zeros(len(z), dtype=z.dtype), torch.ones(len(z), dtype=z.dtype)
    x = GAUSSIAN.flow_map(z, zero, one)
    assert abs(float(x.mean()) - 0.7) < 5e-3  # standard error 0.4 / sqrt(100,000) = 1.3e-3
    assert abs(float(x.std()) - 0.4) < 5e-3
    half = GAUSSIAN.flow_map(z, zero, one / 2)
    assert abs(float(half.mean()) - 0.35) < 1e-2
    assert abs(float(half.std()) - (0.25 + 0.25 * 0.16) ** 0.5) < 1e-2


def test_mixture_of_one_component_at_the_origin_is_the_gaussian():
    single, gaussian = MixtureFlow(torch.zeros(1, 2), 0.4), GaussianFlow(0, 0.4)
    x, (t, _, u) = random_states(16, SHAPE), three_times(16)
    assert largest(single.velocity(x, t) - gaussian.velocity(x, t)) < 1e-12
    assert largest(single.flow_map(x, t, u) - gaussian.flow_map(x, t, u)) < 1e-8


@pytest.mark.parametrize("time", [0.2, 0.5, 0.7])
def test_mixture_velocity_is_the_mean_of_data_minus_noise_given_the_state(time):
    """E[x - z | x_t] by Monte Carlo over data x, each weighted by the density of the noise that leads to x_t."""
    states = random_states(6, SHAPE, seed=4)
    data = MIXTURE.means[torch.randint(8, (400_000,), generator=seeded(5))]
    data = data + MIXTURE.sigma * torch.randn(data.shape, generator=seeded(6), dtype=data.dtype)
    means = []
    for state in states.flatten(1):
        noise = (state - time * data) / (1 - time)
        weight = torch.softmax(-noise.square().sum(1) / 2, dim=0)
        means.append((weight[:, None] * (data - noise)).sum(0))
    v = MIXTURE.velocity(states, torch.full((6,), time, dtype=states.dtype)).flatten(1)
    assert largest(v - torch.stack(means)) < 3e-2
    assert largest(v + torch.stack(means)) > 0.5


def test_mixture_map_agrees_with_an_independent_adaptive_solver():
    z = random_states(32, SHAPE)

    def field(t, x):
        return MIXTURE.velocity(x, t.expand(len(x)))

    ends = torch.tensor([0.0, 0.5, 1.0], dtype=z.dtype)
    solution = odeint(field, z, ends, method="dopri5", rtol=1e-9, atol=1e-10)
    for k, s in enumerate(ends):
        mine = MIXTURE.flow_map(z, torch.zeros(32, dtype=z.dtype), s.expand(32))
        assert largest(mine - solution[k]) < 1e-5


def test_mixture_map_carries_noise_onto_the_components_in_equal_parts():
    z = random_states(4000, SHAPE)
    x = MIXTURE.flow_map(z, torch.zeros(4000, dtype=z.dtype), torch.ones(4000, dtype=z.dtype)).flatten(1)
    distance, nearest = torch.cdist(x, MIXTURE.means).min(1)
    share = nearest.bincount(minlength=8) / 4000
    assert largest(share - 1 / 8) < 0.02  # standard error 0.005
    assert abs(float(distance.square().mean() / 2) ** 0.5 - 0.1) < 5e-3


def test_results_have_the_states_type():
    x, t = random_states(4, SHAPE, dtype=torch.float32), random_times(4, 0, 1, dtype=torch.float32)
    for flow in (GAUSSIAN, MIXTURE):
        assert {flow.velocity(x, t).dtype, flow.flow_map(x, t, t).dtype, flow(x, t, t + 0.1).dtype} == {torch.float32}


def test_ring_and_grid_are_centered_and_evenly_spaced():
    assert ring(8, 1.4).norm(dim=1).tolist() == pytest.approx([1.4] * 8)
    assert largest(ring(8, 1.4).mean(0)) < 1e-12
    assert largest(grid(3, 0.5).mean(0)) < 1e-12
    assert torch.cdist(grid(3, 0.5), grid(3, 0.5)).fill_diagonal_(9).min(1).values.tolist() == pytest.approx([0.5] * 9)
