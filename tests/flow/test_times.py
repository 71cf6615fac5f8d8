"""Stratified times, their transforms, and the time grid of a sampler."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decm.flow import times
from decm.flow.times import arctan_normal_times, logit_normal_times, stratified_times, time_grid

UNIFORMS = torch.linspace(0, 1 - 2**-24, 1001)


def strata(t, global_batch):
    return (t.double() * global_batch).floor().long().tolist()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 10**6), st.sampled_from([1, 2, 8, 64, 128]))
def test_every_stratum_of_a_global_batch_holds_exactly_one_time(seed, step, global_batch):
    t = stratified_times(seed, step * global_batch + torch.arange(global_batch), global_batch)
    assert sorted(strata(t, global_batch)) == list(range(global_batch))
    assert t.dtype == torch.float32


def test_independent_uniform_times_leave_strata_empty():
    t = times.uniform(0, "times", torch.arange(64))
    assert sorted(strata(t, 64)) != list(range(64))


def test_samples_are_matched_with_strata_anew_in_every_step():
    a, b = (stratified_times(0, step * 32 + torch.arange(32), 32) for step in (0, 1))
    assert strata(a, 32) != strata(b, 32)
    assert strata(a, 32) != list(range(32))


@pytest.mark.parametrize("parts", [2, 3, 4, 24])
def test_ranks_and_micro_batches_see_slices_of_the_same_times(parts):
    index = torch.arange(5 * 24, 8 * 24)  # three steps
    whole = stratified_times(7, index, 24)
    contiguous = torch.cat([stratified_times(7, part, 24) for part in index.chunk(parts)])
    strided = [stratified_times(7, index[k::parts], 24) for k in range(parts)]
    assert torch.equal(contiguous, whole)
    assert all(torch.equal(strided[k], whole[k::parts]) for k in range(parts))
    assert not torch.equal(stratified_times(8, index, 24), whole)


@pytest.mark.parametrize("global_batch", [1, 64, 1024, 4096])
def test_the_largest_uniform_number_stays_in_its_stratum_and_below_1(monkeypatch, global_batch):
    monkeypatch.setattr(times, "uniform", lambda seed, purpose, index: torch.full(index.shape, 1 - 2**-24))
    t = stratified_times(0, torch.arange(global_batch), global_batch)
    assert float(t.max()) < 1
    assert sorted(strata(t, global_batch)) == list(range(global_batch))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.8, 1.6), (0.5, 0.3)])
@pytest.mark.parametrize(
    ("transform", "median"),
    [
        (logit_normal_times, lambda mean: 1 / (1 + math.exp(-mean))),
        (arctan_normal_times, lambda mean: 1 - 2 / math.pi * math.atan(math.exp(mean))),
    ],
    ids=["logit", "arctan"],
)
def test_transformed_times_increase_inside_0_and_1_with_the_stated_median(transform, median, mean, std):
    t = transform(UNIFORMS, mean, std)
    assert bool((t.diff()[1:-1] > 0).all())
    assert 0 < float(t.min()) < float(t.max()) < 1
    assert float(transform(torch.tensor([0.5]), mean, std)) == pytest.approx(median(mean), abs=1e-6)
    assert float(transform(torch.tensor([0.5]), mean + 0.2, std)) != pytest.approx(median(mean), abs=1e-3)


def test_arctan_normal_times_are_scms_noise_levels_counted_from_the_noise():
    """sCM draws tan(its time) log-normally, with noise at pi/2: log tan(pi/2 (1 - t)) has the given mean and std."""
    t = arctan_normal_times((torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000, -0.8, 1.6)
    level = torch.tan(math.pi / 2 * (1 - t)).log()
    assert float(level.mean()) == pytest.approx(-0.8, abs=1e-3)
    assert float(level.std()) == pytest.approx(1.6, abs=1e-2)


def test_time_grid_is_even_from_0_to_1():
    assert time_grid(1) == [0, 1]
    assert time_grid(4) == [0, 0.25, 0.5, 0.75, 1]
    assert len(time_grid(1000)) == 1001
    with pytest.raises(ValueError, match="number of steps is 0"):
        time_grid(0)
