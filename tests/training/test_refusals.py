"""What a run refuses: a loss that is not finite, and a checkpoint that does not fit; the teacher is in none."""

import pytest
import torch

from decm.objectives.flow_matching import FlowMatching
from decm.training.callbacks.method.ema import EMA
from decm.training.callbacks.method.trajectories import Instantaneous, ToData
from decm.training.module import NonFiniteLossError
from tiny import all_segments, fit, largest_gap, saved_at, tiny_module, weights


class Infinite(FlowMatching):
    """An objective whose loss overflows."""

    def measure(self, segment, F, aim):
        return super().measure(segment, F, aim) * torch.inf


class OverflowingLater(ToData):
    """A consistency segment whose loss overflows from optimizer step 3 on."""

    def plan(self, batch, step, seed, global_batch):
        self.objective = Infinite() if step >= 3 else FlowMatching()
        return super().plan(batch, step, seed, global_batch)


def test_an_infinite_loss_is_refused_by_its_segments_name_and_step():
    segments = [Instantaneous("instantaneous", FlowMatching()), OverflowingLater("consistency", FlowMatching())]
    said = r"loss of consistency is not finite at optimizer step 3 \(samples 24 to 31, seed 0\)"
    with pytest.raises(NonFiniteLossError, match=said):
        fit(tiny_module(), segments, steps=6)


def test_a_student_with_a_nan_weight_is_refused_before_it_steps():
    module = tiny_module()
    with torch.no_grad():
        module.student.out.bias[0] = torch.nan
    before = weights(module)
    with pytest.raises(NonFiniteLossError, match=r"loss of instantaneous, consistency, .* optimizer step 0 "):
        fit(module, all_segments(), steps=2)
    after = weights(module)
    assert all(torch.equal(before[key], after[key]) for key in before if key != "out.bias")


def test_the_teacher_stays_frozen_and_the_student_moves():
    module = tiny_module()
    teacher, student = weights(module, "teacher"), weights(module)
    fit(module, all_segments(), steps=3)
    assert largest_gap(weights(module, "teacher"), teacher) == 0
    assert largest_gap(weights(module), student) > 1e-3
    assert all(p.grad is None and not p.requires_grad for p in module.teacher.parameters())
    assert all(p.grad is None and not p.requires_grad for p in module.ema.parameters())
    assert not module.teacher.training


def test_the_teacher_stays_out_of_checkpoints_and_reloading_is_strict(tmp_path):
    module = tiny_module()
    fit(module, [*all_segments(), EMA(), saved_at(tmp_path, 2)], 2, enable_checkpointing=True)
    path = tmp_path / "step=2.ckpt"
    state = torch.load(path, weights_only=True)["state_dict"]
    assert {key.split(".")[0] for key in state} == {"student", "ema"}

    resumed = tiny_module()
    fit(resumed, [*all_segments(), EMA()], 2, ckpt_path=path)  # nothing left to train
    assert largest_gap(weights(resumed), weights(module)) == largest_gap(
        weights(resumed, "ema"), weights(module, "ema")
    )
    assert largest_gap(weights(resumed), weights(module)) == 0
    assert largest_gap(weights(resumed, "teacher"), weights(module, "teacher")) == 0
    assert resumed.forward_equivalents == module.forward_equivalents > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("student.out.bias"), "Missing key.*student.out.bias"),
        (lambda state: state.update({"student.new": torch.zeros(1)}), "Unexpected key.*student.new"),
        (lambda state: state.update({"ema.out.bias": torch.zeros(3)}), "size mismatch for ema.out.bias"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_an_error(tmp_path, change, said):
    fit(tiny_module(), [*all_segments(), saved_at(tmp_path, 1)], 1, enable_checkpointing=True)
    checkpoint = torch.load(tmp_path / "step=1.ckpt", weights_only=True)
    change(checkpoint["state_dict"])
    torch.save(checkpoint, tmp_path / "changed.ckpt")
    with pytest.raises(RuntimeError, match=said):
        fit(tiny_module(), all_segments(), 1, ckpt_path=tmp_path / "changed.ckpt")
