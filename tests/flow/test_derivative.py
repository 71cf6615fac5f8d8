"""The three engines of F and dF."""

import pytest
import torch

from decm.flow.derivative import ENGINES
from decm.flow.flow_map import FlowMap
from helpers import (
    random_labels,
    random_states,
    random_times,
    randomize_parameters,
    relative_error,
    small_dit,
    small_mlp,
)

NETWORKS = {
    "dit_raw": (lambda: small_dit("raw"), (2, 8, 8)),
    "dit_difference": (lambda: small_dit("difference"), (2, 8, 8)),
    "mlp_raw": (lambda: small_mlp("raw"), (2, 1, 1)),
    "mlp_difference": (lambda: small_mlp("difference"), (2, 1, 1)),
}
B = 3


@pytest.fixture(params=NETWORKS)
def case(request):
    """A randomized network in float64 with x, t, s, y and one direction per sample."""
    make, shape = NETWORKS[request.param]
    net = randomize_parameters(make().double())
    at = (random_states(B, shape), random_times(B, 0.1, 0.5), random_times(B, 0.5, 0.9, seed=3), random_labels(B))
    tangents = (random_states(B, shape, seed=7), random_times(B, 0.5, 1, seed=8), random_times(B, -1, -0.5, seed=9))
    return net, at, tangents


def with_derivative(engine, case):
    net, at, tangents = case
    return FlowMap(net, engine).with_derivative(*at, tangents)


def central_difference(case, h=1e-4):
    net, (x, t, s, y), (dx, dt, ds) = case
    with torch.no_grad():
        return (net(x + h * dx, t + h * dt, s + h * ds, y) - net(x - h * dx, t - h * dt, s - h * ds, y)) / (2 * h)


def test_split_equals_dual(case):
    (F, dF), (F_split, dF_split) = with_derivative("dual", case), with_derivative("split", case)
    assert relative_error(F_split, F) < 1e-12
    assert relative_error(dF_split, dF) < 1e-12


def test_finite_difference_agrees_with_dual(case):
    (F, dF), (F_fd, dF_fd) = with_derivative("dual", case), with_derivative("finite_difference", case)
    assert relative_error(F_fd, F) < 1e-12
    assert relative_error(dF_fd, dF) < 1e-4


def test_derivative_equals_central_differences(case):
    assert relative_error(with_derivative("dual", case)[1], central_difference(case)) < 1e-7


@pytest.mark.parametrize("wrong", ["flipped end", "exchanged times", "no state"])
def test_a_wrong_direction_gives_another_derivative(case, wrong):
    net, at, (dx, dt, ds) = case
    tangents = {"flipped end": (dx, dt, -ds), "exchanged times": (dx, ds, dt), "no state": (0 * dx, dt, ds)}[wrong]
    _, dF = with_derivative("dual", (net, at, tangents))
    assert relative_error(dF, central_difference(case)) > 1e-2


@pytest.mark.parametrize("engine", ENGINES)
def test_value_keeps_its_gradient_and_derivative_has_none(case, engine):
    F, dF = with_derivative(engine, case)
    assert F.requires_grad
    assert not dF.requires_grad
    assert torch.equal(F.detach(), case[0](*case[1]).detach()) or relative_error(F, case[0](*case[1])) < 1e-12


@pytest.mark.parametrize("engine", ["split", "finite_difference"])
def test_gradients_of_a_loss_through_the_value_are_those_of_dual(case, engine):
    net, _, _ = case

    def gradients(name):
        F, dF = with_derivative(name, case)
        net.zero_grad()
        (F - F.detach() + dF.sign() + F**2).square().mean().backward()
        return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])

    truth = gradients("dual")
    assert truth.norm() > 1e-3
    assert relative_error(gradients(engine), truth) < 1e-10


def test_network_that_knows_tangents_is_given_them_in_one_call():
    class Linear:
        supports_tangents = True
        calls = 0

        def __call__(self, x, t, s, y, tangents=None):
            self.calls += 1
            return 2 * x if tangents is None else (2 * x, 2 * tangents[0])

    net, x, t = Linear(), random_states(B, (2,)), random_times(B, 0, 1)
    F, dF = FlowMap(net).with_derivative(x, t, t, random_labels(B), (x + 1, t, t))
    assert net.calls == 1
    assert torch.equal(F, 2 * x)
    assert torch.equal(dF, 2 * (x + 1))
