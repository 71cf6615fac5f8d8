"""Laws with a schedule of their own: where it begins, where it ends, and what lies between."""

import pytest
import torch

from decm.flow.derivative import one_pass
from decm.flow.exact import GaussianFlow
from decm.objectives.alpha_flow import AlphaFlow
from decm.objectives.base import Segment
from decm.objectives.discrete_consistency import DiscreteConsistency
from decm.objectives.mean_flow import MeanFlow
from decm.objectives.norms import mean_square
from decm.objectives.scm import SCM
from decm.objectives.shortcut import Shortcut
from helpers import largest, no_labels, random_states, random_times, relative_error, unguided

B = 16
EXACT = GaussianFlow(0.7, 0.4)
FIELD = unguided(EXACT)


def student(x, t, s, y=None):
    """A flow map that is not the exact one."""
    return 1.1 * EXACT(x, t, s) + 0.05 * x


def average(x, t, s, y=None):
    return 0.9 * EXACT(x, t, s)


def segment(to_data=True, progress=1.0, **changes):
    start = random_times(B, 0.05, 0.85)
    end = torch.ones_like(start) if to_data else start + 0.15
    x = random_states(B, (2, 1, 1))
    return Segment(x, start, end, no_labels(B), progress, None, **{"student": student, "average": average, **changes})


def outcome(objective, part):
    """(loss, its gradient in F, tangent) at the student."""
    rows = objective.ask(part, FIELD)
    F, dF = student(rows.x, rows.t, rows.s), None
    if rows.tangents is not None:
        F, dF = one_pass(student, rows.x, rows.t, rows.s, rows.y, rows.tangents)
    aim = objective.aim(part, F, dF, FIELD)
    F = F.detach().requires_grad_()
    loss = objective.measure(part, F, aim)
    loss.sum().backward()
    return loss.detach(), F.grad, aim.tangent


def test_the_first_stage_near_the_data_is_flow_matching_and_the_steps_halve_from_stage_to_stage():
    law, t = DiscreteConsistency(), torch.tensor([1e-9, 0.5, 0.999], dtype=torch.float64)
    first = law.step(t, 0.0)
    assert float(first[0]) == pytest.approx(0.5)  # n = 1 in pure noise
    assert float(first[2]) == 1.0  # n = 5 beside the data
    steps = torch.stack([law.step(t[:1], (stage + 0.5) / 8) for stage in range(8)]).flatten()
    assert largest(steps - 0.5 ** torch.arange(1, 9)) < 1e-9
    assert torch.equal(law.step(t, 1.0), law.step(t, 0.99))  # the last stage lasts to the end
    near = segment(progress=0.0)
    near.start = torch.full((B,), 0.999, dtype=torch.float64)
    tangent = outcome(law, near)[2]
    assert relative_error(tangent, student(near.x, near.start, near.end) - EXACT.velocity(near.x, near.start)) < 1e-10


def test_many_small_steps_are_the_continuous_law():
    """(F - target) / a -> F - v - (1 - t) dF, to order a; with dF of the other sign it does not."""
    law, part = DiscreteConsistency(stages=14, k=0.0), segment()
    F, dF = one_pass(student, *part.along_the_flow(part.velocity(FIELD))[:4], part.along_the_flow(part.v).tangents)
    for sign, near in ((1, True), (-1, False)):
        span = (part.end - part.start).reshape(-1, 1, 1, 1)
        limit = F - part.v - sign * span * dF
        assert (relative_error(outcome(law, part)[2] * 2**14, limit) < 1e-3) == near


def test_the_loss_of_discrete_consistency_is_the_weighted_pseudo_huber_distance():
    law, part = DiscreteConsistency(c=0.5), segment(progress=0.3)
    loss, gradient, gap = outcome(law, part)
    a = law.step(part.start, 0.3)
    assert largest(loss - ((mean_square(gap) + (0.5 * a) ** 2).sqrt() - 0.5 * a) / a) < 1e-12
    assert float((gradient * gap).sum()) > 0


def test_alpha_runs_from_one_to_zero():
    law = AlphaFlow()
    assert [law.alpha(progress) for progress in (0.0, 0.25, 0.75, 1.0)] == [1.0, 1.0, 0.0, 0.0]
    assert law.alpha(0.5) == 0.5
    between = [law.alpha(progress / 100) for progress in range(30, 70)]
    assert between == sorted(between, reverse=True)
    assert min(between) >= law.eta


def test_alpha_one_is_flow_matching_over_the_segment_and_alpha_zero_mean_flow():
    part = segment(to_data=False, progress=0.0)
    loss, _, tangent = outcome(AlphaFlow(), part)
    e = mean_square(tangent)
    assert relative_error(tangent, student(part.x, part.start, part.end) - EXACT.velocity(part.x, part.start)) < 1e-12
    assert largest(loss - e / (e + 1e-3)) < 1e-12
    for ours, theirs in zip(
        outcome(AlphaFlow(), segment(to_data=False)), outcome(MeanFlow(), segment(to_data=False)), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_the_gradient_of_a_small_alpha_is_that_of_mean_flow():
    """So that nothing jumps where the curriculum goes over to the derivative."""
    law = AlphaFlow(sharpness=25.0, eta=1e-5)
    small = outcome(law, segment(to_data=False, progress=0.9))[1]
    limit = outcome(MeanFlow(), segment(to_data=False))[1]
    assert law.alpha(0.9) == pytest.approx(4.5e-5, rel=0.01)
    assert relative_error(small, limit) < 1e-3
    assert relative_error(-small, limit) > 1


def test_a_shortcut_is_two_halves_of_the_average_or_of_the_student():
    for averaged, net in ((True, average), (False, student)):
        part = segment(to_data=False)
        middle = (part.start + part.end) / 2
        half = part.x + 0.075 * net(part.x, part.start, middle)
        two = half + 0.075 * net(half, middle, part.end)
        gap = outcome(Shortcut(averaged), part)[2]
        one = part.x + 0.15 * student(part.x, part.start, part.end)
        assert relative_error(one - 0.15 * gap, two) < 1e-12


def test_scm_begins_as_flow_matching_and_ends_as_consistency():
    gap = outcome(SCM(), segment(progress=0.0))[2]
    part = segment()
    assert relative_error(gap, student(part.x, part.start, part.end) - EXACT.velocity(part.x, part.start)) < 1e-12
    assert relative_error(outcome(SCM(), part)[2], gap) > 0.1


def test_the_weight_of_scm_is_learned_to_the_inverse_of_the_loss():
    """d/dw (exp(w) e - w) = 0 at w = -log e; a plain mean square has no parameter to learn."""
    law = SCM().double()
    with torch.no_grad():
        law.weight.coefficients[0] = 0.3  # a constant w
    loss, _, tangent = outcome(law, segment())
    rms = mean_square(tangent).sqrt()
    e = (rms / (rms + 0.1)) ** 2
    assert largest(loss - (torch.tensor(0.3).double().exp() * e - 0.3)) < 1e-6
    law.zero_grad()
    outcome(law, segment())
    assert float(law.weight.coefficients.grad[0]) == pytest.approx(
        float((torch.tensor(0.3).double().exp() * e - 1).sum()), rel=1e-5
    )
    assert list(SCM(adaptive=False).parameters()) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: DiscreteConsistency(q=1.0),
        lambda: DiscreteConsistency(stages=0),
        lambda: DiscreteConsistency(c=0.0),
        lambda: AlphaFlow(sharpness=0.0),
        lambda: AlphaFlow(eta=0.5),
    ],
)
def test_a_schedule_that_cannot_be_is_an_error(make):
    with pytest.raises(ValueError, match="expected"):
        make()


def test_a_law_that_looks_at_the_student_must_be_given_one():
    part = segment()
    bare = Segment(part.x, part.start, part.end, part.y)
    with pytest.raises(AssertionError, match="looks at the student"):
        Shortcut().aim(bare, part.x, None, FIELD)
