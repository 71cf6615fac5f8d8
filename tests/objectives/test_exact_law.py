"""At the exact flow every objective asks for what already holds; a wrong vector or sign does not."""

from dataclasses import dataclass

import pytest
import torch

from decm.flow.derivative import one_pass
from decm.flow.exact import GaussianFlow, MixtureFlow, ring
from decm.objectives.alpha_flow import AlphaFlow
from decm.objectives.base import Rows, Segment
from decm.objectives.consistency import FORMS, Consistency
from decm.objectives.flow_matching import FlowMatching
from decm.objectives.improved_mean_flow import ImprovedMeanFlow
from decm.objectives.mean_flow import MeanFlow
from decm.objectives.noise_to_noisy import NoiseToNoisy
from decm.objectives.scm import SCM
from decm.objectives.shortcut import Shortcut
from helpers import largest, no_labels, random_states, random_times, unguided

B = 24
GAUSSIAN = GaussianFlow(0.7, 0.4)
RING = MixtureFlow(ring(8, 1.4), 0.1, steps=50)
WEIGHTS = [(1.0, 0.0), (1.0, 0.5), (0.5, 1.0), (0.0, 1.0), (1.0, 1.0), (0.3, 2.0)]
CONTINUOUS = {
    **{f"consistency_{form}": Consistency(form) for form in FORMS},
    **{f"noise_to_noisy_{end}_{start}": NoiseToNoisy(end, start) for end, start in WEIGHTS},
    "noise_to_noisy_unclamped": NoiseToNoisy(1.0, 0.5, clamp=None),
    "mean_flow": MeanFlow(),
    "improved_mean_flow": ImprovedMeanFlow(),
    "alpha_flow_at_its_end": AlphaFlow(),
    "scm": SCM(),
    "scm_unweighted": SCM(adaptive=False),
}
# Without derivatives: the boundary, and the composition of two halves, which holds exactly too.
PLAIN = {"flow_matching": FlowMatching(), "shortcut": Shortcut(), "shortcut_not_averaged": Shortcut(averaged=False)}
ALL = {**PLAIN, **CONTINUOUS}


def times_of(objective, dtype=torch.float64, last=1.0):
    """Start and end of a segment of the objective's kind."""
    if isinstance(objective, NoiseToNoisy):
        return random_times(B, 0, 0.1, dtype=dtype), random_times(B, 0.2, last, seed=3, dtype=dtype)
    start = random_times(B, 0.05, 0.85, dtype=dtype)
    if isinstance(objective, Consistency | SCM):
        return start, torch.full_like(start, last)
    if isinstance(objective, FlowMatching):
        return start, start
    return start, start + random_times(B, 0.05, last - 0.85, seed=3, dtype=dtype)


def segment_of(objective, flow, **options):
    """States of the flow's own distribution, so that the ring is where it would be met."""
    start, end = times_of(objective, **options)
    x = flow.flow_map(random_states(B, (2, 1, 1)), torch.zeros_like(start), start)
    return Segment(x, start, end, no_labels(B), student=flow, average=flow)


def student_of(objective, flow, distort=lambda rows: rows, field=None, **options):
    """(segment, field, F-, dF) with the flow itself as the student, the rows that it is asked for distorted."""
    segment = segment_of(objective, flow, **options)
    field = field or unguided(flow)
    rows = distort(objective.ask(segment, field))
    if rows.tangents is None:
        return segment, field, flow(rows.x, rows.t, rows.s), None
    return segment, field, *one_pass(flow, rows.x, rows.t, rows.s, rows.y, rows.tangents)


def law(objective, flow, sign=1.0, **options):
    """(aim, F-) at the flow, with the derivative times `sign`."""
    segment, field, F, dF = student_of(objective, flow, **options)
    return objective.aim(segment, F, dF if dF is None else sign * dF, field), F


def gap(aim, F):
    """(largest tangent, largest distance of target and prediction)."""
    return largest(aim.tangent), largest(aim.target - F)


@pytest.mark.parametrize("objective", ALL.values(), ids=ALL)
def test_target_is_the_prediction_at_the_exact_gaussian_flow(objective):
    assert max(gap(*law(objective, GAUSSIAN))) < 1e-10


@pytest.mark.parametrize("objective", CONTINUOUS.values(), ids=CONTINUOUS)
def test_a_flipped_derivative_misses(objective):
    tangent, distance = gap(*law(objective, GAUSSIAN, sign=-1.0))
    assert min(tangent, distance) > 1e-2


def exchanged(rows: Rows) -> Rows:
    """The weights of start and end exchanged in the derivative vector alone: (v, 1, 0) becomes (0, 0, -1)."""
    _, dt, ds = rows.tangents
    v = GAUSSIAN.velocity(rows.x, rows.t)
    return rows._replace(tangents=(-ds.reshape(-1, 1, 1, 1) * v, -ds, -dt))


@pytest.mark.parametrize(
    "objective",
    [law for name, law in CONTINUOUS.items() if name != "noise_to_noisy_1.0_1.0"],
    ids=[name for name in CONTINUOUS if name != "noise_to_noisy_1.0_1.0"],
)
def test_the_exchanged_derivative_vector_misses(objective):
    tangent, distance = gap(*law(objective, GAUSSIAN, distort=exchanged))
    assert min(tangent, distance) > 1e-2


def test_the_exchanged_vector_cannot_be_told_apart_at_equal_weights():
    assert max(gap(*law(NoiseToNoisy(1.0, 1.0), GAUSSIAN, distort=exchanged))) < 1e-10


@pytest.mark.parametrize("objective", CONTINUOUS.values(), ids=CONTINUOUS)
@pytest.mark.parametrize("part", [0, 1, 2])
def test_each_flipped_part_of_the_derivative_vector_misses(objective, part):
    def flip(rows):
        tangents = list(rows.tangents)
        tangents[part] = -tangents[part]
        return rows._replace(tangents=tuple(tangents))

    segment = segment_of(objective, GAUSSIAN)
    asked = objective.ask(segment, unguided(GAUSSIAN)).tangents[part]
    tangent, distance = gap(*law(objective, GAUSSIAN, distort=flip))
    if largest(asked) == 0:
        assert max(tangent, distance) < 1e-10
    else:
        assert min(tangent, distance) > 1e-2


@pytest.mark.parametrize(
    "objective",
    [law for name, law in ALL.items() if "shortcut" not in name],
    ids=[name for name in ALL if "shortcut" not in name],
)
def test_a_field_of_another_flow_or_of_the_other_sign_misses(objective):
    other = unguided(GaussianFlow(0.2, 0.4))

    def backwards(x, t, y):
        return -GAUSSIAN.velocity(x, t)

    for field in (other, backwards):
        tangent, distance = gap(*law(objective, GAUSSIAN, field=field))
        assert min(tangent, distance) > 1e-2


@dataclass
class Wrong:
    """The exact flow with its average velocity off by a factor."""

    flow: GaussianFlow

    def __call__(self, x, t, s, y=None):
        return 1.1 * self.flow(x, t, s)

    def __getattr__(self, name):
        return getattr(self.flow, name)


@pytest.mark.parametrize("objective", ALL.values(), ids=ALL)
def test_a_student_that_is_not_the_flow_is_moved(objective):
    tangent, distance = gap(*law(objective, Wrong(GAUSSIAN), field=unguided(GAUSSIAN)))
    near = 1e-3 if isinstance(objective, Shortcut) else 1e-2  # short halves of a scaled flow nearly compose
    assert min(tangent, distance) > near


@pytest.mark.parametrize("objective", ALL.values(), ids=ALL)
def test_loss_and_its_gradient_vanish_at_the_exact_flow(objective):
    aim, F = law(objective, GAUSSIAN)
    F = F.detach().requires_grad_()
    loss = objective.measure(segment_of(objective, GAUSSIAN), F, aim)
    loss.sum().backward()
    assert loss.shape == (B,)
    assert largest(loss) < 1e-10
    assert largest(F.grad) < 1e-8


@pytest.mark.parametrize("objective", ALL.values(), ids=ALL)
def test_target_is_the_prediction_at_the_exact_flow_of_a_ring(objective):
    """The map is a Runge-Kutta solve here, and dF the derivative of that solve; both are right to about 1e-5."""
    segment, field, F, dF = student_of(objective, RING, last=0.95)
    assert max(gap(objective.aim(segment, F, dF, field), F)) < 1e-4
    if dF is not None:
        assert min(gap(objective.aim(segment, F, -dF, field), F)) > 1e-2


def test_derivative_of_the_rings_map_is_that_of_finite_differences():
    """The law on the ring rests on a derivative through the solver: check it without forward-mode."""
    flow, h = RING, 1e-3
    segment = segment_of(MeanFlow(), flow, last=0.95)
    rows = MeanFlow().ask(segment, unguided(flow))
    _, dF = one_pass(flow, rows.x, rows.t, rows.s, rows.y, rows.tangents)
    F = {k: flow(rows.x + k * h * rows.tangents[0], rows.t + k * h, rows.s) for k in (-2, -1, 1, 2)}
    by_differences = (F[-2] - 8 * F[-1] + 8 * F[1] - F[2]) / (12 * h)  # order 4
    assert largest(dF - by_differences) < 1e-4


@pytest.mark.parametrize(("end", "start"), [(0.5, 1.0), (1.0, 0.5), (1.0, 0.0)])
def test_the_print_as_it_stands_does_not_hold_at_the_exact_flow(end, start):
    """g = (end - start) (v(x_r, r) - v(f, t)), not 0: weights and vector of DE-CM's print are of two readings."""
    objective = NoiseToNoisy(end, start, clamp=None, exchanged=True)
    segment = segment_of(objective, GAUSSIAN)
    aim, F = law(objective, GAUSSIAN)
    at_end = segment.x + (segment.end - segment.start).reshape(-1, 1, 1, 1) * F
    expected = (end - start) * (GAUSSIAN.velocity(segment.x, segment.start) - GAUSSIAN.velocity(at_end, segment.end))
    torch.testing.assert_close(aim.tangent, expected, rtol=1e-9, atol=1e-10)
    assert largest(expected) > 1e-2
