"""The training step: what was planned is summed, by one student call, and what is not finite is refused."""

import copy

import pytest
import torch

from decm.data.datamodule import DataModule
from decm.flow.path import conditional_velocity
from decm.objectives.flow_matching import FlowMatching
from decm.objectives.noise_to_noisy import NoiseToNoisy
from decm.training.callbacks.method.trajectories import FromNoise, Instantaneous
from decm.training.module import DistillationModule
from helpers import randomize_parameters, small_dit, small_mlp
from tiny import (
    GLOBAL_BATCH,
    all_segments,
    anchor,
    fit,
    largest_gap,
    planned,
    recipe,
    teacher_of,
    tiny_module,
    tiny_set,
    weights,
    without_trainer,
)

INDEX = range(GLOBAL_BATCH)


def dit_module(fused=True, end_embedding="raw"):
    """A transformer and its teacher in float64."""
    student = randomize_parameters(small_dit(end_embedding).double(), seed=1)
    teacher = randomize_parameters(small_dit(two_times=False).double(), seed=2)
    return DistillationModule(student, teacher_of(teacher, eta_rms=0.1), recipe(fused=fused))


def loss_of(module, trajectories, index=INDEX, dataset=None, accumulate=1, step=0):
    """(loss of a step, figures logged)."""
    logged = without_trainer(module, accumulate)
    dtype = next(module.student.parameters()).dtype
    batch = planned(module, anchor(module, dataset or tiny_set(), index, dtype), trajectories, step)
    loss = module.training_step(batch, 0)
    if module.step.micro_batches == accumulate:
        module.read_step()
    return loss, logged


def gradients(module):
    return {name: p.grad.clone() for name, p in module.student.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("end_embedding", ["raw", "difference"])
def test_fused_and_unfused_gradients_are_the_same(end_embedding):
    """Four segments, with and without tangents, two of them on a part of the rows; float64."""
    results = []
    for fused in (True, False):
        module = dit_module(fused, end_embedding)
        loss, logged = loss_of(module, all_segments(), dataset=tiny_set((2, 8, 8)))
        loss.backward()
        results.append((loss.detach(), logged, gradients(module)))
    (one, logged_one, fused), (other, logged_other, unfused) = results
    assert torch.allclose(one, other, rtol=1e-12)
    assert logged_one == pytest.approx(logged_other, rel=1e-10)
    assert fused.keys() == unfused.keys()
    assert largest_gap(fused, unfused) < 1e-12 < max(float(g.abs().max()) for g in fused.values())


def test_fused_is_one_call_with_tangents_and_one_without():
    calls = {True: [], False: []}
    for fused in (True, False):
        module = tiny_module(fused=fused)
        module.student.register_forward_hook(lambda net, args, out, fused=fused: calls[fused].append(len(args[0])))
        loss_of(module, all_segments())
    assert calls[True] == [8 + 4 + 2, 8]  # consistency, half of the rows, a quarter; and the boundary
    assert calls[False] == [8, 8, 4, 2]


def test_total_is_the_weighted_sum_of_separately_computed_losses():
    module = tiny_module()
    segments = all_segments()
    total, logged = loss_of(module, segments)
    alone = {segment.name: loss_of(module, [segment]) for segment in segments}
    torch.testing.assert_close(total, sum(loss for loss, _ in alone.values()))
    for segment in segments:
        loss, figures = alone[segment.name]
        assert logged[f"loss/{segment.name}"] == pytest.approx(figures[f"loss/{segment.name}"], rel=1e-5)
        assert float(loss.detach()) == pytest.approx(segment.weight * figures[f"loss/{segment.name}"], rel=1e-5)


def test_removing_a_segment_removes_its_loss_and_changes_no_other():
    module = tiny_module()
    _, everything = loss_of(module, all_segments())
    _, without = loss_of(module, [s for s in all_segments() if s.name != "noise_to_noisy"])
    assert set(everything) - set(without) == {"loss/noise_to_noisy", "tangent/noise_to_noisy"}
    assert {key: everything[key] for key in without} == pytest.approx(without, rel=1e-5)


def test_the_boundary_loss_is_that_of_the_conditional_velocity_without_a_teacher():
    """v = x - z: the step's loss, computed by hand from the anchor."""
    module = tiny_module(teacher=False)
    loss, _ = loss_of(module, [Instantaneous("instantaneous", FlowMatching(cosine=0.0))])
    b = anchor(module, tiny_set(), INDEX)
    x_t = (1 - b.t.reshape(-1, 1, 1, 1)) * b.z + b.t.reshape(-1, 1, 1, 1) * b.x
    by_hand = (module.student(x_t, b.t, b.t, b.y) - conditional_velocity(b.x, b.z)).square().mean()
    torch.testing.assert_close(loss, by_hand)


def test_micro_batches_sum_to_the_mean_over_the_global_batch():
    """Segments on a part of the rows too: Lightning divides each micro-batch's loss by their number."""
    module = tiny_module()
    whole, _ = loss_of(module, all_segments())
    cut = [loss_of(module, all_segments(), range(k, k + 2), accumulate=4)[0] for k in range(0, 8, 2)]
    torch.testing.assert_close(sum(cut) / 4, whole)


def test_an_empty_plan_is_an_error():
    with pytest.raises(ValueError, match="No segment was planned"):
        loss_of(tiny_module(), [])
    with pytest.raises(ValueError, match="No segment was planned"):
        fit(tiny_module(), [Instantaneous("instantaneous", FlowMatching(), every=2)], steps=2)


def n2n(end, start):
    return FromNoise(name="noise_to_noisy", objective=NoiseToNoisy(end, start), fraction=1.0)


def test_without_a_teacher_the_velocity_off_the_anchors_path_is_an_error():
    with pytest.raises(ValueError, match="Choose a teacher"):
        loss_of(tiny_module(teacher=False), [n2n(1.0, 0.0)])


def test_without_a_teacher_n2n_of_its_start_alone_takes_the_conditional_velocity():
    """The start lies on the anchor's path, at a time other than the anchor's."""
    _, logged = loss_of(tiny_module(teacher=False), [n2n(0.0, 1.0)])
    assert 0 < logged["loss/noise_to_noisy"] < torch.inf


def test_forward_equivalents_of_a_step_are_those_counted_by_hand():
    """Student rows: 3 each without tangents, 4 with. A guided teacher evaluates twice a row."""
    B, half, quarter = 8, 4, 2
    module = tiny_module()
    loss_of(module, all_segments())
    student = 3 * B + 4 * B + 4 * half + 4 * quarter
    teacher = 2 * (B + half + half)  # at the anchor, and for N2N at its start and at its end
    assert module.forward_equivalents == student + teacher
    loss_of(module, all_segments()[:1])
    assert module.forward_equivalents == (student + teacher) + (3 * B + 2 * B)
    alone = tiny_module(teacher=False)
    loss_of(alone, all_segments()[:1])
    assert alone.forward_equivalents == 3 * B


def test_the_ema_starts_as_the_student_and_shares_no_memory():
    module = tiny_module()
    assert largest_gap(weights(module), weights(module, "ema")) == 0
    untouched = copy.deepcopy(weights(module, "ema"))
    with torch.no_grad():
        for parameter in module.student.parameters():
            parameter.add_(1.0)
    assert largest_gap(weights(module, "ema"), untouched) == 0


def test_the_data_module_leaves_the_anchor_to_the_module():
    own = {name for name in vars(DataModule) if "transfer" in name}
    assert own == set()


def test_a_teacher_imitated_perfectly_costs_nothing():
    """Student weights = teacher weights, unguided: F(x, t, t) = v(x, t). With guidance the loss is not zero."""
    net = randomize_parameters(small_mlp(two_times=False), seed=2)
    for scale, low, high in ((1.0, -1e-7, 1e-7), (2.0, 1e-4, torch.inf)):
        module = DistillationModule(copy.deepcopy(net), teacher_of(net, scale), recipe())
        loss, _ = loss_of(module, all_segments()[:1])
        assert low <= float(loss.detach()) <= high


@pytest.mark.parametrize("accumulate", [2, 4])
def test_what_is_logged_is_the_mean_over_micro_batches(accumulate):
    """Also of a segment whose rows lie in some of them alone."""
    logged = {}
    for parts in (1, accumulate):
        module = tiny_module()
        trainer = fit(module, all_segments(), 1, accumulate_grad_batches=parts)
        logged[parts] = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert logged[1].keys() == logged[accumulate].keys()
    assert logged[accumulate] == pytest.approx(logged[1], rel=1e-4)


def test_a_micro_batch_without_a_row_of_what_is_due_adds_nothing():
    module, whole = tiny_module(), tiny_module()
    segments = lambda: [FromNoise(name="noise_to_noisy", objective=NoiseToNoisy(1.0, 0.5), fraction=1 / GLOBAL_BATCH)]  # noqa: E731
    fit(module, segments(), 2, accumulate_grad_batches=GLOBAL_BATCH)
    fit(whole, segments(), 2)
    assert largest_gap(weights(module), weights(whole)) < 1e-5
    assert module.forward_equivalents == whole.forward_equivalents  # the teacher is called for its rows all the same
