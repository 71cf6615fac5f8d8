"""Consistency: what each form of the loss does away from the exact flow."""

import math

import pytest
import torch

from decm.objectives.base import Segment
from decm.objectives.consistency import FORMS, Consistency
from helpers import largest, no_labels, random_states, random_times

SHAPE = (3, 2, 2)


@pytest.fixture
def case():
    """A segment t -> 1, and a value and derivative that do not satisfy the law."""
    t = random_times(4, 0.1, 0.9)
    segment = Segment(random_states(4, SHAPE), t, torch.ones_like(t), no_labels(4), v=random_states(4, SHAPE, seed=5))
    return segment, random_states(4, SHAPE, seed=6), random_states(4, SHAPE, seed=7)


def tangent(case):
    segment, F, dF = case
    return F - segment.v - (1 - segment.start).reshape(-1, 1, 1, 1) * dF


def loss_of(objective, case):
    segment, F, dF = case
    aim = objective.aim(segment, F, dF, None)
    return objective.measure(segment, F.clone().requires_grad_(), aim), aim


def test_it_asks_for_the_derivative_along_the_flow(case):
    rows = Consistency().ask(case[0], None)
    dx, dt, ds = rows.tangents
    assert torch.equal(dx, case[0].v)
    assert dt.tolist() == [1] * 4
    assert ds.tolist() == [0] * 4
    assert rows.s.tolist() == [1] * 4


@pytest.mark.parametrize("form", FORMS)
def test_reported_tangent_is_the_law_before_any_clamp_or_norm(case, form):
    assert largest(loss_of(Consistency(form), case)[1].tangent - tangent(case)) < 1e-14


def test_squared_form_is_the_mean_square_of_the_tangent(case):
    assert largest(loss_of(Consistency("squared"), case)[0] - tangent(case).square().mean((1, 2, 3))) < 1e-12


def test_normalized_form_takes_steps_of_length_below_one(case):
    g = tangent(case)
    rms = g.square().mean((1, 2, 3)).sqrt()
    assert largest(loss_of(Consistency("tangent_normalized"), case)[0] - (rms / (rms + 0.1)).square()) < 1e-12


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_facm_form_clamps_weighs_and_normalizes_as_published(case, power):
    t, g = case[0].start, tangent(case).clamp(-1, 1)
    e = ((1 - t**power).reshape(-1, 1, 1, 1) * g).square().mean((1, 2, 3))
    assert largest(tangent(case)) > 1, "the clamp must be at work"
    assert (
        largest(loss_of(Consistency("facm", power), case)[0] - e / (e + 1e-3).sqrt() * (math.pi * t / 2).cos()) < 1e-12
    )


def test_facm_norm_is_a_constant_for_the_gradient(case):
    segment, F, dF = case
    objective = Consistency("facm")
    F = F.clone().requires_grad_()
    aim = objective.aim(segment, F.detach(), dF, None)
    objective.measure(segment, F, aim).sum().backward()
    error = (F - aim.target).detach()
    e = error.square().mean((1, 2, 3))
    factor = (math.pi * segment.start / 2).cos() / (e + 1e-3).sqrt()
    assert largest(F.grad - factor.reshape(-1, 1, 1, 1) * 2 * error / 12) < 1e-12


def test_unknown_form_is_refused_by_name():
    with pytest.raises(ValueError, match=r"form='huber'.*facm, tangent_normalized, squared"):
        Consistency("huber")
