"""Mean flow: the average velocity of any segment, and its adaptive weight."""

import pytest
import torch

from decm.objectives.base import Segment
from decm.objectives.consistency import Consistency
from decm.objectives.improved_mean_flow import ImprovedMeanFlow
from decm.objectives.mean_flow import MeanFlow
from helpers import largest, no_labels, random_states, random_times

SHAPE = (3, 2, 2)


def case(end=None):
    t = random_times(4, 0.1, 0.5)
    end = random_times(4, 0.5, 1, seed=3) if end is None else torch.full_like(t, end)
    segment = Segment(random_states(4, SHAPE), t, end, no_labels(4), v=random_states(4, SHAPE, seed=5))
    return segment, random_states(4, SHAPE, seed=6), random_states(4, SHAPE, seed=7)


def test_target_is_velocity_plus_span_times_derivative():
    segment, F, dF = case()
    aim = MeanFlow().aim(segment, F, dF, None)
    assert largest(aim.target - segment.v - (segment.end - segment.start).reshape(-1, 1, 1, 1) * dF) < 1e-14
    assert largest(aim.tangent - (F - aim.target)) < 1e-14


def test_to_the_data_end_its_tangent_is_that_of_consistency():
    segment, F, dF = case(end=1.0)
    mean_flow, consistency = (law.aim(segment, F, dF, None).tangent for law in (MeanFlow(), Consistency("squared")))
    assert largest(mean_flow - consistency) < 1e-14


def test_the_improved_derivative_is_along_the_students_own_velocity_and_the_target_is_of_the_fields():
    segment, F, dF = case()
    segment.student = lambda x, t, s, y: 2 * x + (s - t).reshape(-1, 1, 1, 1)
    own, fields = (law.ask(segment, None).tangents for law in (ImprovedMeanFlow(), MeanFlow()))
    assert largest(own[0] - 2 * segment.x) < 1e-14
    assert torch.equal(fields[0], segment.v)
    assert all(torch.equal(a, b) for a, b in zip(own[1:], fields[1:], strict=True))
    targets = [law.aim(segment, F, dF, None).target for law in (ImprovedMeanFlow(), MeanFlow())]
    assert torch.equal(*targets)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_loss_is_normalized_by_its_own_detached_power(power):
    segment, F, dF = case()
    objective, F = MeanFlow(power, c=1e-2), F.requires_grad_()
    aim = objective.aim(segment, F.detach(), dF, None)
    loss = objective.measure(segment, F, aim)
    loss.sum().backward()
    error = (F - aim.target).detach()
    e = error.square().mean((1, 2, 3))
    assert largest(loss - e / (e + 1e-2) ** power) < 1e-12
    assert largest(F.grad - 2 * error / 12 / ((e + 1e-2) ** power).reshape(-1, 1, 1, 1)) < 1e-12
