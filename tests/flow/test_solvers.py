"""Samplers: their order, their exactness, their cost, and the rule that chooses."""

import itertools
import math

import pytest
import torch

from decm.flow.exact import GaussianFlow
from decm.flow.flow_map import FlowMap
from decm.flow.solvers import SAMPLERS, choose_sampler, grid, sample
from helpers import Counting, largest, no_labels, random_states

FLOW = GaussianFlow(0.7, 0.4)
SHAPE = (2, 1, 1)
FM, CD, N2N, MF = "instantaneous", "consistency", "noise_to_noisy", "mean_flow"


def fresh(z):
    """Noise for the k-th renoising."""
    return lambda k: random_states(len(z), SHAPE, seed=100 + k)


def draw(sampler, nfe, batch=16, net=FLOW, noise=None, times=None):
    z = random_states(batch, SHAPE)
    return sample(FlowMap(net), z, y=no_labels(batch), nfe=nfe, sampler=sampler, noise=noise or fresh(z), times=times)


def jump(batch=16):
    z = random_states(batch, SHAPE)
    return FLOW.flow_map(z, torch.zeros(batch, dtype=z.dtype), torch.ones(batch, dtype=z.dtype))


@pytest.mark.parametrize(("sampler", "order"), [("euler", 1), ("heun", 2)])
def test_error_of_the_solver_falls_at_its_order(sampler, order):
    errors = [largest(draw(sampler, nfe) - jump()) for nfe in (64, 128, 256, 512)]
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(0.9 * order <= slope <= 1.1 * order for slope in slopes), slopes


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50, 1000])
def test_flow_map_steps_are_exact_for_any_number_of_steps(steps):
    assert largest(draw("flow_map_steps", steps) - jump()) < 1e-12


def test_flow_map_steps_are_exact_on_an_uneven_grid():
    assert largest(draw("flow_map_steps", 3, times=[0, 0.05, 0.9, 1]) - jump()) < 1e-12


def test_euler_on_the_same_flow_is_not_exact():
    assert largest(draw("euler", 7) - jump()) > 1e-2


@pytest.mark.parametrize("sampler", ["flow_map_steps", "consistency", "n2n_then_consistency"])
def test_one_step_is_the_jump(sampler):
    assert largest(draw(sampler, 1) - jump()) < 1e-12


def test_noise_to_noisy_then_consistency_is_the_jump_at_two_steps_without_renoising():
    def refuse(k):
        raise AssertionError("two steps have nothing to renoise")

    assert largest(draw("n2n_then_consistency", 2, noise=refuse) - jump()) < 1e-12
    assert largest(draw("consistency", 2) - jump()) > 1e-1, "consistency renoises, and lands elsewhere"


@pytest.mark.parametrize("sampler", ["consistency", "n2n_then_consistency"])
@pytest.mark.parametrize("nfe", [2, 4])
def test_renoising_samplers_draw_from_the_data_distribution(sampler, nfe):
    x = draw(sampler, nfe, batch=50_000)
    assert abs(float(x.mean()) - 0.7) < 6e-3  # standard error 0.4 / sqrt(100,000) = 1.3e-3
    assert abs(float(x.std()) - 0.4) < 6e-3


def test_renoising_without_noise_misses_the_data_distribution():
    x = draw("consistency", 4, batch=50_000, noise=lambda k: torch.zeros(50_000, *SHAPE, dtype=torch.float64))
    assert abs(float(x.std()) - 0.4) > 5e-2


def test_each_renoising_takes_its_own_noise():
    asked = []

    def noise(k):
        asked.append(k)
        return random_states(16, SHAPE, seed=k)

    draw("consistency", 4, noise=noise)
    assert asked == [0, 1, 2]


@pytest.mark.parametrize(
    ("sampler", "nfe"),
    [
        (name, nfe)
        for name in SAMPLERS
        for nfe in (1, 2, 3, 4, 8, 50)
        if (name != "heun" or nfe % 2 == 0) and (name != "jump" or nfe == 1)
    ],
)
def test_nfe_is_the_number_of_network_calls(sampler, nfe):
    net = Counting(FLOW)
    draw(sampler, nfe, net=net)
    assert (net.calls, net.rows) == (nfe, 16 * nfe)


@pytest.mark.parametrize("nfe", [0, -1, 1001])
def test_impossible_nfe_is_refused(nfe):
    with pytest.raises(ValueError, match=f"nfe={nfe} is out of range; expected 1 to 1000"):
        draw("euler", nfe)


def test_odd_nfe_of_heun_is_refused():
    with pytest.raises(ValueError, match=r"nfe=3 with heun.*even"):
        draw("heun", 3)


def test_unknown_sampler_is_refused_by_name():
    with pytest.raises(ValueError, match=r"sampler='ddim' is unknown.*flow_map_steps"):
        draw("ddim", 4)


@pytest.mark.parametrize(
    "times", [[0, 1], [0, 0.5, 0.5, 1], [0, 0.6, 0.5, 1], [0.1, 0.5, 0.7, 1], [0, 0.5, 0.7, 0.9], [0, 0.5, math.nan, 1]]
)
def test_bad_grid_is_refused(times):
    with pytest.raises(ValueError, match="does not rise from 0 to 1 in 3 intervals"):
        draw("euler", 3, times=times)


@pytest.mark.parametrize(
    ("trained_on", "expected"),  # at NFE 1, 2, 4, 50
    [
        ((), ["euler"] * 4),
        ((FM,), ["euler"] * 4),
        ((CD,), ["jump"] + ["consistency"] * 3),
        *(
            (names, ["jump"] + ["flow_map_steps"] * 3)
            for names in ((N2N,), (MF,), (FM, CD), (FM, N2N), (FM, MF), (CD, N2N), (FM, CD, N2N), (FM, "shortcut"))
        ),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
def test_sampler_is_chosen_by_steps_and_by_what_was_trained(trained_on, expected):
    assert [choose_sampler(nfe, trained_on) for nfe in (1, 2, 4, 50)] == expected


def test_the_jump_is_a_single_step():
    with pytest.raises(ValueError, match="jump, which is a single step"):
        draw("jump", 2)


@pytest.mark.parametrize("switch", [0.2, 0.5, 0.9])
def test_the_mixed_sampler_integrates_up_to_its_switch_and_jumps_from_there(switch):
    """With many steps it is exact at the exact flow; with few its error is Euler's up to the switch alone."""
    sampler = f"euler_then_consistency@{switch}"
    exact = draw("jump", 1)
    errors = [largest(draw(sampler, nfe) - exact) for nfe in (5, 9, 17)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.3)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.3)
    assert grid(sampler, 3) == [0, switch / 2, switch, 1]
    assert largest(draw(sampler, 1) - exact) < 1e-12


def test_later_switches_have_more_of_eulers_error():
    exact = draw("jump", 1)
    errors = [largest(draw(f"euler_then_consistency@{switch}", 8) - exact) for switch in (0.2, 0.5, 0.9)]
    assert errors == sorted(errors)
    assert largest(draw("euler_then_consistency", 8) - exact) == errors[1]


@pytest.mark.parametrize("name", ["euler_then_consistency@", "euler_then_consistency@1", "euler_then_consistency@x"])
def test_a_switch_outside_is_refused(name):
    with pytest.raises(ValueError, match="expected a time between 0 and 1"):
        draw(name, 4)


def test_others_have_no_switch():
    with pytest.raises(ValueError, match="is unknown"):
        draw("euler@0.5", 4)
