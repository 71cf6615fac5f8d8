"""Bad numbers are skipped by optimizer and average alike, written down, and in the end undone; never replaced."""

import json
import math

import pytest
import torch
from lightning.pytorch import Callback

from decm.objectives.flow_matching import FlowMatching
from decm.training.callbacks.method.ema import EMA
from decm.training.callbacks.method.ema_snapshots import EMASnapshots
from decm.training.callbacks.method.trajectories import Instantaneous
from decm.training.callbacks.reliability.guard import (
    INCIDENTS,
    Guard,
    RollbackError,
    count_rollbacks,
    save_rollback,
)
from tiny import GLOBAL_BATCH, all_segments, fit, saved_at, tiny_module, weights


class BadData(Callback):
    """Data of the given optimizer steps hold one value that is not finite, in one row."""

    def __init__(self, steps, value=torch.nan, micro=0):
        self.steps, self.value, self.micro = steps, value, micro

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step in self.steps and batch_idx % trainer.accumulate_grad_batches == self.micro:
            batch.x.flatten()[0] = self.value


class After(Callback):
    """What the optimizer steps left: weights, averages and the optimizer's moments, by step."""

    def __init__(self):
        self.left = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        moments = [torch.cat([v.flatten() for v in s.values()]) for s in trainer.optimizers[0].state.values()]
        averages = {f"ema.{k}": v for k, v in weights(pl_module, "ema").items()}
        held = torch.cat([*moments, torch.zeros(1)])
        self.left[trainer.global_step] = {**weights(pl_module), **averages, "moments": held}


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


def trained(folder, steps=8, bad=(), patience=10, extra=(), **options):
    module, after, guard = tiny_module(), After(), Guard(folder, patience)
    callbacks = [
        *all_segments(),
        BadData(bad, options.pop("value", torch.nan), options.pop("micro", 0)),
        EMA(),
        guard,
        after,
    ]
    fit(module, [*callbacks, *extra], steps, **options)
    return after.left, guard, module


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_bad_step_changes_neither_weights_nor_averages_nor_the_optimizer(tmp_path, value):
    left, guard, _ = trained(tmp_path, bad=(3, 4), value=value)
    assert same(left[4], left[3])
    assert same(left[5], left[3])
    assert not same(left[6], left[5])
    assert all(bool(v.isfinite().all()) for v in left[8].values())
    assert (guard.skipped, guard.in_a_row) == (2, 0)


def test_good_steps_are_those_of_a_run_without_a_guard(tmp_path):
    left, guard, _ = trained(tmp_path)
    module, after = tiny_module(), After()
    fit(module, [*all_segments(), EMA(), after], 8)
    assert all(same(left[step], after.left[step]) for step in left)
    assert guard.skipped == 0
    assert not (tmp_path / INCIDENTS).exists()


@pytest.mark.parametrize("micro", [0, 1])
def test_a_bad_micro_batch_spoils_its_whole_step(tmp_path, micro):
    left, guard, _ = trained(tmp_path, bad=(3,), micro=micro, accumulate_grad_batches=2)
    assert same(left[4], left[3])
    assert not same(left[5], left[4])
    assert guard.skipped == 1


def test_a_gradient_that_overflows_behind_a_finite_loss_is_skipped_too(tmp_path):
    """Clipping by such a norm would make every weight NaN."""

    class Steep(Callback):
        def on_after_backward(self, trainer, pl_module):
            if trainer.global_step == 3:
                next(pl_module.student.parameters()).grad.fill_(1e30)

    left, guard, _ = trained(tmp_path, extra=[Steep()], gradient_clip_val=1.0)
    assert same(left[4], left[3])
    assert guard.skipped == 1
    (path,) = (tmp_path / INCIDENTS).iterdir()
    facts = json.loads(path.read_text())
    assert math.isinf(facts["gradient_norm"])
    assert facts["over_all_ranks"] == {}


def test_what_a_bad_step_saw_is_written_down(tmp_path):
    trained(tmp_path, bad=(3,))
    (path,) = (tmp_path / INCIDENTS).iterdir()
    facts = json.loads(path.read_text())
    assert path.name == "step_00000003_seed_0_rank_0.json"
    assert (facts["seed"], facts["step"], facts["data_is_finite"]) == (0, 3, False)
    assert facts["samples"] == list(range(3 * GLOBAL_BATCH, 4 * GLOBAL_BATCH))
    assert len(facts["t"]) == GLOBAL_BATCH
    assert set(facts["segments"]) == {"instantaneous", "consistency", "noise_to_noisy", "mean_flow"}
    assert set(facts["segments"]["noise_to_noisy"]) == {"start", "end"}
    assert math.isnan(facts["here"]["loss/instantaneous"])
    assert math.isnan(facts["over_all_ranks"]["consistency"])
    assert {name for name in facts["here"] if name.startswith("tangent/")} >= {"tangent/consistency"}


def test_too_many_in_a_row_are_handed_over_and_single_ones_are_not(tmp_path):
    with pytest.raises(RollbackError, match="3 steps in a row were not finite, up to step 4"):
        trained(tmp_path, bad=(2, 3, 4), patience=3)
    _, guard, _ = trained(tmp_path, bad=(1, 2, 4, 5), patience=3)
    assert guard.skipped == 4


def test_the_count_goes_on_after_a_resume_and_begins_anew_with_other_data(tmp_path):
    module = tiny_module()
    fit(
        module,
        [*all_segments(), BadData((2, 3)), Guard(tmp_path, 3), saved_at(tmp_path, 4)],
        4,
        enable_checkpointing=True,
    )
    path = tmp_path / "step=4.ckpt"
    with pytest.raises(RollbackError, match="3 steps in a row"):
        fit(tiny_module(), [*all_segments(), BadData((4,)), Guard(tmp_path, 3)], 8, ckpt_path=path)
    guard = Guard(tmp_path, 3)
    fit(tiny_module(seed=2**32), [*all_segments(), BadData((4,)), guard], 8, ckpt_path=path)
    assert guard.skipped == 3


def test_snapshots_of_averages_leave_bad_steps_out_too(tmp_path):
    kept = EMASnapshots(tmp_path / "kept", 4)
    trained(tmp_path, bad=(2,), extra=[kept])
    assert all(bool(v.isfinite().all()) for average in kept.averages.values() for v in average.values())


class Spiky(FlowMatching):
    """A loss that is 100 times larger at one call."""

    def measure(self, segment, F, aim):
        object.__setattr__(self, "calls", getattr(self, "calls", 0) + 1)
        return super().measure(segment, F, aim) * (100 if self.calls == 106 else 1)


def test_a_spike_is_said_and_nothing_is_done_about_it(tmp_path, capsys):
    module, guard = tiny_module(teacher=False), Guard(tmp_path)
    fit(module, [Instantaneous("instantaneous", Spiky()), guard], 110)
    assert "Loss spike at step 105" in capsys.readouterr().out
    assert (guard.spikes, guard.skipped) == (1, 0)


def test_rollbacks_are_counted_in_the_run_folder(tmp_path):
    assert count_rollbacks(tmp_path) == 0
    save_rollback(tmp_path, "why", tmp_path / "last.ckpt")
    save_rollback(tmp_path, "why", None)
    assert count_rollbacks(tmp_path) == 2


@pytest.mark.parametrize("settings", [{"patience": 0}, {"spike": 1.0}])
def test_settings_that_cannot_be_meant_are_refused(tmp_path, settings):
    with pytest.raises(ValueError, match="expected patience >= 1 and spike > 1"):
        Guard(tmp_path, **settings)


@pytest.mark.parametrize("micro", [0, 1])
def test_of_several_micro_batches_the_bad_one_is_written_down(tmp_path, micro):
    trained(tmp_path, bad=(3,), micro=micro, accumulate_grad_batches=2)
    (path,) = (tmp_path / INCIDENTS).iterdir()
    facts = json.loads(path.read_text())
    half = GLOBAL_BATCH // 2
    first = 3 * GLOBAL_BATCH + micro * half
    assert facts["samples"] == list(range(first, first + half))
    assert not facts["data_is_finite"]
