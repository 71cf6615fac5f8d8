"""2-D: the sliced Wasserstein distance has known values, and the exact flow has no map error."""

import pytest
import torch

from decm.evaluation.judge import PointsJudge
from decm.evaluation.points import MapErrors, sliced_wasserstein
from decm.flow.exact import GaussianFlow, MixtureFlow, grid
from decm.flow.flow_map import FlowMap
from helpers import random_states


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_a_shifted_set_is_at_the_shift_over_the_root_of_the_dimension(dim):
    """W2 of a shift by d along direction u is |d . u|, whose mean square over directions is |d|^2 / D."""
    a = random_states(200, (dim,))
    shift = torch.full((dim,), 0.6).double()
    expected = float(shift.norm()) / dim**0.5
    assert sliced_wasserstein(a, a + shift, projections=20_000) == pytest.approx(expected, rel=0.02)
    assert sliced_wasserstein(a, a + shift) == pytest.approx(expected, rel=0.2)


def test_it_is_a_distance_between_sets():
    a, b = random_states(300, (2, 1, 1)), 2 * random_states(300, (2, 1, 1), 1)
    assert sliced_wasserstein(a, a[torch.randperm(300)]) == pytest.approx(0, abs=1e-12)
    assert sliced_wasserstein(a, b) == pytest.approx(sliced_wasserstein(b, a), rel=1e-12)
    assert sliced_wasserstein(3 * a, 3 * b) == pytest.approx(3 * sliced_wasserstein(a, b), rel=1e-9)
    with pytest.raises(ValueError, match="300 and 299 points"):
        sliced_wasserstein(a, b[1:])


def test_the_exact_flow_has_no_map_error_and_the_floor_is_near_zero():
    exact = GaussianFlow(0.7, 0.3)
    errors = MapErrors(exact, (2, 1, 1), num=500)(FlowMap(exact))
    assert errors.keys() == {"0_1", "0_t", "t_1", "v"}
    assert max(errors.values()) < 1e-5


def test_the_exact_flow_of_a_mixture_has_no_map_error():
    exact = MixtureFlow(grid(2, 1.2), 0.2, steps=60)
    assert max(MapErrors(exact, (2, 1, 1), num=100)(FlowMap(exact)).values()) < 1e-4


def test_a_wrong_flow_has_the_error_of_its_mistake():
    """A flow to a mean that is 0.1 too high errs by 0.1 s at time s from noise, and by 0.1 in the velocity at t = 0."""
    errors = MapErrors(GaussianFlow(0.7, 0.3), (2, 1, 1), num=2000)(FlowMap(GaussianFlow(0.8, 0.3)))
    assert errors["0_1"] == pytest.approx(0.1, rel=1e-4)
    assert errors["0_t"] == pytest.approx(0.1 / 3**0.5, rel=0.05)  # t uniform
    assert errors["t_1"] > 0.01
    assert errors["v"] > 0.05
    reversed_time = FlowMap(lambda x, t, s, y: -GaussianFlow(0.7, 0.3)(x, t, s))
    assert min(MapErrors(GaussianFlow(0.7, 0.3), (2, 1, 1), num=200)(reversed_time).values()) > 0.1


def test_errors_are_of_the_seed_and_the_truth_is_computed_once():
    class Once(GaussianFlow):
        solves = 0

        def flow_map(self, x, t, s, y=None):
            self.solves += 1
            return super().flow_map(x, t, s, y)

    exact, wrong = Once(0.7, 0.3), FlowMap(GaussianFlow(0.7, 0.4))
    errors = MapErrors(exact, (2, 1, 1), num=100)
    first = errors(wrong)
    assert first == errors(wrong)
    assert exact.solves == 2
    assert first != MapErrors(GaussianFlow(0.7, 0.3), (2, 1, 1), num=100, seed=1)(wrong)


def test_the_judge_of_points_scores_exact_samples_at_the_floor():
    def draw(purpose: str, num: int) -> torch.Tensor:
        return random_states(num, (2, 1, 1), seed=sum(map(ord, purpose)))

    judge = PointsJudge(draw, "a Gaussian")
    floor = judge.floor(2000)["value"]
    exact = judge.score(draw("samples", 2000), torch.zeros(2000))["value"]
    assert exact < 2 * floor < 0.2 < judge.score(draw("samples", 2000) + 0.5, torch.zeros(2000))["value"]


def test_the_judge_of_points_scores_a_repeated_point_by_the_spread_around_it():
    """A direction's squared distance is the mean of (d . (p - x))^2; over directions |p - x|^2 / 2 in the plane."""
    x = random_states(3000, (2, 1, 1))
    judge = PointsJudge(lambda purpose, num: x[:num], "a Gaussian")
    point = torch.tensor([3.0, -1.0]).double().reshape(1, 2, 1, 1)
    truth = float((point - x).flatten(1).square().sum(1).mean() / 2) ** 0.5
    assert judge.score(point.expand_as(x), torch.zeros(3000))["value"] == pytest.approx(truth, rel=0.1)
    assert judge.score(x[:1].expand_as(x), torch.zeros(3000))["value"] > 0.5
