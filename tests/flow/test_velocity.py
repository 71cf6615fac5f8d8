"""Guidance: its formula, its cap, its interval, and when the unconditional velocity is not computed."""

import pytest
import torch

from decm.flow.exact import GaussianFlow
from decm.flow.velocity import GuidedVelocity
from helpers import Counting, largest, random_states, random_times, randomize_parameters, small_dit, unguided

NULL = 4
SHAPE = (3, 2, 2)  # D = 12
ETA_RMS = 0.5
OFFSETS = torch.tensor([0.0, 0.1, -0.45, 0.8, 0.0])  # of each label; label 0 equals the null label's


def teacher(x, t, s, y):
    """v = x (1 + t) + a label's offset in every dimension, so that rms(dv) = |offset|."""
    assert torch.equal(t, s)
    return x * (1 + t).reshape(-1, 1, 1, 1) + OFFSETS.to(x)[y].reshape(-1, 1, 1, 1)


@pytest.fixture
def at():
    y = torch.tensor([0, 1, 2, 3, 3, NULL])
    return random_states(6, SHAPE), random_times(6, 0.2, 0.9), y


def by_hand(x, t, y, scale, eta_rms=None, low=0.0, high=1.0):
    rows = []
    for i in range(len(x)):
        v_c = teacher(x[i : i + 1], t[i : i + 1], t[i : i + 1], y[i : i + 1])[0]
        v_u = teacher(x[i : i + 1], t[i : i + 1], t[i : i + 1], torch.tensor([NULL]))[0]
        dv = v_c - v_u
        norm, eta = float(dv.norm()), None if eta_rms is None else eta_rms * 12**0.5
        cap = 1.0 if eta is None or norm <= eta else eta / norm
        gain = (scale - 1) * cap if low <= float(t[i]) <= high else 0.0
        rows.append(v_c + gain * dv)
    return torch.stack(rows)


@pytest.mark.parametrize("eta_rms", [None, ETA_RMS, 0.2])
def test_guided_velocity_is_the_formula(at, eta_rms):
    v = GuidedVelocity(teacher, NULL, 1.75, eta_rms)(*at)
    assert largest(v - by_hand(*at, 1.75, eta_rms)) < 1e-12
    assert largest(v - by_hand(*at, 2.0, eta_rms)) > 1e-2


def test_cap_is_active_exactly_where_the_difference_is_longer_than_eta(at):
    free, capped = (GuidedVelocity(teacher, NULL, 1.75, eta)(*at) for eta in (None, ETA_RMS))
    differs = (free - capped).flatten(1).norm(dim=1) > 1e-12
    assert differs.tolist() == (OFFSETS[at[2]].abs() > ETA_RMS).tolist()
    assert differs.tolist() == [False, False, False, True, True, False]
    step = (capped - teacher(at[0], at[1], at[1], at[2])).flatten(1).norm(dim=1)[3]
    assert float(step) == pytest.approx(0.75 * ETA_RMS * 12**0.5), "the capped step is (w - 1) eta long"


def test_eta_per_dimension_caps_alike_at_any_resolution():
    y, t = torch.tensor([3]), torch.tensor([0.5], dtype=torch.float64)
    field = GuidedVelocity(teacher, NULL, 1.75, ETA_RMS)
    steps = [field(x, t, y) - teacher(x, t, t, y) for x in (random_states(1, SHAPE), random_states(1, (3, 8, 8)))]
    assert float(steps[0].mean()) == pytest.approx(float(steps[1].mean()))


def test_guidance_acts_inside_its_interval_alone(at):
    x, _, y = at
    t = torch.tensor([0.1, 0.1249, 0.125, 0.8, 0.8001, 0.5], dtype=x.dtype)
    y = torch.full_like(y, 2)
    v = GuidedVelocity(teacher, NULL, 1.75, None, 0.125, 0.8)(x, t, y)
    guided = (v - teacher(x, t, t, y)).flatten(1).norm(dim=1) > 1e-12
    assert guided.tolist() == [False, False, True, True, False, True]
    assert largest(v - by_hand(x, t, y, 1.75, None, 0.125, 0.8)) < 1e-12


def test_null_label_rows_are_unguided(at):
    x, t, y = at
    null = torch.full_like(y, NULL)
    v = GuidedVelocity(teacher, NULL, 3.0, ETA_RMS)(x, t, null)
    assert largest(v - teacher(x, t, t, null)) < 1e-15
    assert bool(v.isfinite().all())


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({"scale": 1.0}, 6),
        ({"scale": 1.75}, 12),
        ({"scale": 1.75, "low": 0.95}, 6),
        ({"scale": 1.0, "eta_rms": 1.0}, 6),
    ],
)
def test_unconditional_rows_are_computed_only_where_guidance_acts_and_in_one_call(at, settings, rows):
    net = Counting(teacher)
    field = GuidedVelocity(net, NULL, **settings)
    v = field(*at)
    assert (net.calls, net.rows) == (1, rows)
    if rows == 6:
        assert torch.equal(v, teacher(at[0], at[1], at[1], at[2]))


@pytest.mark.parametrize("scale", [1.0, 1.75])
def test_velocity_has_no_gradient(scale):
    net = randomize_parameters(small_dit().double())
    x, t, y = random_states(2, (2, 8, 8)), random_times(2, 0.2, 0.9), torch.tensor([0, 1])
    assert net(x, t, t, y).requires_grad
    assert not GuidedVelocity(net, net.num_classes, scale)(x, t, y).requires_grad


def test_unguided_velocity_is_the_flows_own():
    flow, x, t = GaussianFlow(0.7, 0.4), random_states(4, (2, 1, 1)), random_times(4, 0, 1)
    field = unguided(flow)
    assert largest(field(x, t, torch.zeros(4, dtype=torch.long)) - flow.velocity(x, t)) < 1e-12


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": 0.5},
        {"eta_rms": 0.0},
        {"eta_rms": -1.0},
        {"low": -0.1},
        {"high": 1.1},
        {"low": 0.8, "high": 0.2},
    ],
    ids=str,
)
def test_settings_that_cannot_be_meant_are_refused(settings):
    with pytest.raises(ValueError, match="expected scale >= 1, eta_rms > 0 or null, and 0 <= low <= high <= 1"):
        GuidedVelocity(teacher, NULL, **settings)
