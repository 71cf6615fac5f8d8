"""Where and when: each trajectory's ends, rows, schedule and ramp, in real runs too."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from decm.objectives.flow_matching import FlowMatching
from decm.objectives.noise_to_noisy import NoiseToNoisy
from decm.objectives.scm import SCM
from decm.objectives.shortcut import Shortcut
from decm.training.callbacks.method.trajectories import (
    AnyLater,
    Dyadic,
    FromNoise,
    Instantaneous,
    ToData,
    Trajectory,
    chosen_rows,
)
from decm.training.schedules import linear_decay
from decm.training.sharding import ShardedStrategy
from tiny import GLOBAL_BATCH, Recorder, anchor, fit, saved_at, tiny_module, tiny_set

EVERY, DECAY, R_MAX = 3, 6, 0.1


def boundary():
    return Instantaneous("instantaneous", FlowMatching())


def n2n(**changes):
    """N2N every third optimizer step, its r gone after six."""
    options = {"r_max": R_MAX, "decay_steps": DECAY, "every": EVERY, **changes}
    return FromNoise(name="noise_to_noisy", objective=NoiseToNoisy(), **options)


def recorded(steps, segment=None, ckpt_path=None, callbacks=(), **options):
    recorder = Recorder()
    fit(tiny_module(), [boundary(), segment or n2n(), recorder, *callbacks], steps, ckpt_path=ckpt_path, **options)
    return recorder


def plan_of(segment, index=range(GLOBAL_BATCH), step=0, global_batch=GLOBAL_BATCH):
    module = tiny_module(batch_size=global_batch)
    batch = anchor(module, tiny_set(), index)
    return batch, segment.plan(batch, step, 0, global_batch)


def schedule(recorder):
    """{optimizer step: (r, micro-batches it was planned in)} of N2N."""
    seen = {}
    for step, plan in zip(recorder.steps, recorder.plans, strict=True):
        if "noise_to_noisy" in plan:
            start = plan["noise_to_noisy"].start
            assert torch.equal(start, start[:1].expand_as(start))
            r, times = seen.get(step, (float(start[0]), 0))
            assert r == float(start[0])
            seen[step] = (r, times + 1)
    return seen


def expected_schedule(steps, micro_batches=1):
    return {step: (pytest.approx(linear_decay(step, R_MAX, DECAY)), micro_batches) for step in steps}


def test_n2n_acts_at_every_third_optimizer_step_while_r_decays():
    recorder = recorded(8)
    assert schedule(recorder) == expected_schedule([0, 3, 6])
    assert [linear_decay(step, R_MAX, DECAY) for step in (0, 3, 6, 9)] == [0.1, 0.05, 0.0, 0.0]
    assert recorder.planned_steps("instantaneous") == list(range(8))


def test_n2n_counts_optimizer_steps_under_accumulation():
    """Every micro-batch of such a step plans it, and no other; counting batches would plan at batch 3."""
    recorder = recorded(7, accumulate_grad_batches=2)
    assert recorder.steps == [step for step in range(7) for _ in range(2)]
    assert schedule(recorder) == expected_schedule([0, 3, 6], micro_batches=2)
    assert schedule(recorder) != expected_schedule(range(0, 7, 2), micro_batches=1)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_n2n_goes_on_as_planned_after_a_resume(tmp_path, accumulate):
    """Killed after four steps, so that a schedule that counted from the resume would plan at step 4."""
    recorded(4, callbacks=[saved_at(tmp_path, 4)], enable_checkpointing=True)
    resumed = recorded(8, ckpt_path=tmp_path / "step=4.ckpt", accumulate_grad_batches=accumulate)
    assert sorted(set(resumed.steps)) == [4, 5, 6, 7]
    assert schedule(resumed) == expected_schedule([6], accumulate)
    assert sorted(i for index in resumed.index for i in index) == list(range(4 * GLOBAL_BATCH, 8 * GLOBAL_BATCH))


def test_n2n_ends_at_r_plus_the_rest_of_the_way_to_the_anchors_time():
    for step in (0, 3, 6):
        batch, sub = plan_of(n2n(), step=step)
        r = linear_decay(step, R_MAX, DECAY)
        torch.testing.assert_close(sub.end, r + (1 - r) * batch.t)
        assert bool((sub.end >= sub.start).all())
    _, first = plan_of(n2n())
    batch, last = plan_of(n2n(), step=DECAY)
    assert bool((first.start == R_MAX).all())
    assert torch.equal(last.end, batch.t)
    assert bool((batch.t < first.start).any())  # ending at t itself would run backwards


def test_spread_draws_each_rows_start_below_r_from_its_sample_alone():
    batch, sub = plan_of(n2n(spread=True))
    assert len(sub.start.unique()) == GLOBAL_BATCH
    assert 0 <= float(sub.start.min()) <= float(sub.start.max()) < R_MAX
    torch.testing.assert_close(sub.end, sub.start + (1 - sub.start) * batch.t)
    _, part = plan_of(n2n(spread=True), range(3, 5))
    assert torch.equal(part.start, sub.start[3:5])


def test_the_other_segments_end_where_their_names_say():
    batch, here = plan_of(boundary())
    assert torch.equal(here.start, batch.t)
    assert torch.equal(here.end, batch.t)
    batch, data = plan_of(ToData("consistency", FlowMatching()))
    assert torch.equal(data.start, batch.t)
    assert data.end.tolist() == [1.0] * GLOBAL_BATCH


def test_any_later_time_is_uniform_beyond_the_share_that_stays():
    """A quarter of the samples stays at t; for the others (s - t) / (1 - t) is uniform."""
    segment = AnyLater(boundary=0.25, name="mean_flow", objective=FlowMatching())
    index = torch.arange(4000)
    t = torch.linspace(0.0, 0.9, 4000)
    start, end = segment.ends(t, index, 0, 0)
    assert torch.equal(start, t)
    stays = end == t
    assert float(stays.float().mean()) == pytest.approx(0.25, abs=0.02)
    u = ((end - t) / (1 - t))[~stays]
    assert float(u.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(u.std()) == pytest.approx(12**-0.5, abs=0.02)
    assert torch.equal(segment.ends(t[5:9], index[5:9], 7, 0)[1], end[5:9])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_exactly_count_rows_of_each_global_batch_are_chosen_however_it_is_cut(count, parts):
    size = GLOBAL_BATCH // parts
    for step in range(3):
        chosen = set()
        for part in range(parts):
            index = step * GLOBAL_BATCH + part * size + torch.arange(size)
            chosen |= set(index[chosen_rows(index, GLOBAL_BATCH, count)].tolist())
        assert len(chosen) == count
        assert {i - step * GLOBAL_BATCH for i in chosen} == {
            k for k in range(GLOBAL_BATCH) if (k + 1) * count // GLOBAL_BATCH > k * count // GLOBAL_BATCH
        }


@pytest.mark.parametrize(("fraction", "count"), [(1.0, 8), (0.5, 4), (0.33, 3), (0.01, 1)])
def test_a_fraction_is_a_number_of_rows_of_the_global_batch_in_a_run_too(fraction, count):
    """With four micro-batches; some of them hold none of the rows and plan nothing."""
    recorder = recorded(2, n2n(every=1, fraction=fraction), accumulate_grad_batches=4)
    for step in (0, 1):
        subs = [plan.get("noise_to_noisy") for s, plan in zip(recorder.steps, recorder.plans, strict=True) if s == step]
        assert len(subs) == 4
        assert sum(len(sub.start) for sub in subs if sub is not None) == count
        assert {sub.count for sub in subs if sub is not None} == {count}


def test_rows_and_ends_belong_to_each_other():
    batch, sub = plan_of(n2n(every=1, fraction=0.5, decay_steps=0))
    assert torch.equal(sub.end, batch.t[sub.rows])
    segment = batch.segment(sub, torch.zeros_like(batch.x))
    assert torch.equal(segment.x, batch.z[sub.rows])  # r = 0: the noise itself
    assert torch.equal(segment.y, batch.y[sub.rows])


def test_the_weight_ramps_up():
    segment = Instantaneous("instantaneous", FlowMatching(), weight=2.0, weight_ramp_steps=4)
    plans = [plan_of(segment, step=step)[1] for step in (0, 1, 2, 4, 9)]
    assert [plan.weight for plan in plans] == [0.0, 0.5, 1.0, 2.0, 2.0]
    assert [plan.progress for plan in plans] == [1.0] * 5
    assert plan_of(boundary(), step=0)[1].weight == 1.0


def test_an_objective_with_a_schedule_of_its_own_is_told_how_far_it_has_come():
    segment = ToData("consistency", SCM(), weight=2.0, schedule_steps=4)
    plans = [plan_of(segment, step=step)[1] for step in (0, 1, 2, 4, 9)]
    assert [plan.progress for plan in plans] == [0.0, 0.25, 0.5, 1.0, 1.0]
    assert [plan.weight for plan in plans] == [2.0] * 5
    batch, sub = plan_of(segment, step=1)
    assert batch.segment(sub, torch.zeros_like(batch.x)).progress == 0.25
    with pytest.raises(ValueError, match="schedule_steps=4 has no effect on FlowMatching"):
        Instantaneous("instantaneous", FlowMatching(), schedule_steps=4)


def test_dyadic_segments_are_whole_steps_of_every_length_around_the_anchor():
    segment = Dyadic(levels=4, name="shortcut", objective=Shortcut(), fraction=1.0)
    batch, sub = plan_of(segment, range(4000), global_batch=4000)
    length = sub.end - sub.start
    assert set(length.tolist()) == {1.0, 0.5, 0.25, 0.125}
    assert all(900 < int((length == d).sum()) < 1100 for d in (1.0, 0.5, 0.25, 0.125))
    assert torch.equal((sub.start / length).round() * length, sub.start)
    assert bool(((sub.start <= batch.t) & (batch.t < sub.end)).all())
    assert float(sub.end.max()) == 1.0
    with pytest.raises(ValueError, match="levels=0"):
        Dyadic(levels=0, name="shortcut", objective=Shortcut())


@pytest.mark.parametrize(
    "bad",
    [
        {"every": 0},
        {"fraction": 0.0},
        {"fraction": 1.1},
        {"weight": -1.0},
        {"weight_ramp_steps": -1},
        {"every": -3},
        {"schedule_steps": -1},
    ],
)
def test_bad_settings_are_errors_that_name_the_segment(bad):
    with pytest.raises(ValueError, match=r"Segment noise_to_noisy: .*expected every >= 1, 0 < fraction <= 1"):
        n2n(**bad)


@pytest.mark.parametrize("bad", [{"r_max": 1.0}, {"r_max": -0.1}, {"decay_steps": -1}])
def test_a_bad_decay_of_r_is_an_error(bad):
    with pytest.raises(ValueError, match="expected 0 <= r_max < 1"):
        n2n(**bad)


@pytest.mark.parametrize("bad", [-0.1, 1.0, 1.5])
def test_a_bad_share_that_stays_is_an_error(bad):
    with pytest.raises(ValueError, match="boundary="):
        AnyLater(boundary=bad, name="mean_flow", objective=FlowMatching())


def test_every_trajectory_keeps_a_state_of_its_own():
    """Two segments of one class in one run must not share a key in the checkpoint."""
    keys = {Trajectory(name, FlowMatching()).state_key for name in ("a", "b")}
    assert len(keys) == 2


@pytest.mark.parametrize(("fraction", "refused"), [(0.25, True), (0.5, False)])
def test_a_sharded_rank_without_a_row_is_refused_before_it_would_wait_for_ever(fraction, refused):
    """Two ranks with two micro-batches each, of 8 rows in all."""
    segment = Instantaneous("instantaneous", FlowMatching(), fraction=fraction)
    trainer = SimpleNamespace(world_size=2, accumulate_grad_batches=2, strategy=ShardedStrategy())
    module = tiny_module(batch_size=8)
    said = "2 of batch_size=8 rows, fewer than the 4 micro-batches"
    with pytest.raises(ValueError, match=said) if refused else nullcontext():
        segment.on_train_start(trainer, module)
    trainer.strategy = "ddp"
    segment.on_train_start(trainer, module)
