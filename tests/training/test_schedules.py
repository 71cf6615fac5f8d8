"""Schedules of the optimizer step."""

import itertools

import pytest

from decm.training.schedules import linear_decay, linear_ramp, warmup_constant, warmup_cosine


def test_decay_is_linear_and_then_zero():
    assert [linear_decay(i, 0.1, 20_000) for i in (0, 5_000, 10_000, 20_000, 30_000)] == pytest.approx(
        [0.1, 0.075, 0.05, 0, 0]
    )
    assert linear_decay(0, 0.1, 0) == 0


def test_ramp_is_linear_and_then_one():
    assert [linear_ramp(i, 10) for i in (0, 5, 10, 20)] == pytest.approx([0, 0.5, 1, 1])
    assert linear_ramp(0, 0) == 1


def test_warmup_cosine_rises_linearly_then_falls_as_half_a_cosine():
    rate = [warmup_cosine(i, 10, 110, final=0.1) for i in range(131)]
    assert rate[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rate[10] == pytest.approx(1)
    assert rate[60] == pytest.approx(0.55)
    assert rate[35] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + 0.5**0.5))
    assert rate[110:] == pytest.approx([0.1] * 21)
    assert all(a > b for a, b in itertools.pairwise(rate[10:111]))
    assert warmup_cosine(0, 0, 100) == 1


def test_warmup_constant_rises_linearly_and_stays():
    assert [warmup_constant(i, 4) for i in (0, 1, 3, 4, 100)] == pytest.approx([0.25, 0.5, 1, 1, 1])
    assert warmup_constant(0, 0) == 1
