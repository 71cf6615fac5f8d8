"""Any power-law average comes out of two tracked ones; they survive a resume; what cannot be is refused by name."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from decm.training.callbacks.method.ema import ema_decay, power_law_exponent
from decm.training.callbacks.method.ema_snapshots import (
    FOLDER,
    EMASnapshots,
    find_snapshots,
    inner_product,
    reconstruct,
    shares,
)
from tiny import all_segments, fit, largest_gap, saved_at, tiny_module, weights

WIDTHS, STEPS, EVERY = (0.05, 0.1), 2000, 100


def walk(steps=STEPS, size=64):
    """A random walk [steps, size], whose steps are of size one."""
    return torch.randn(steps, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(0)


def tracked(states, width):
    """The average after each step."""
    average, history = states[0].clone(), []
    for n, state in enumerate(states, start=1):
        average = torch.lerp(average, state, 1 - ema_decay(n, "power", 0.0, width))
        history.append(average)
    return history


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    run, states = tmp_path_factory.mktemp("run"), walk()
    (run / FOLDER).mkdir()
    for width in WIDTHS:
        history = tracked(states, width)
        for step in range(EVERY, STEPS + 1, EVERY):
            facts = {"step": str(step), "sigma_rel": repr(width)}
            save_file({"w": history[step - 1].float()}, run / FOLDER / f"{step:05d}_{width}.safetensors", facts)
    return run


@pytest.mark.parametrize("width", [0.05, 0.08, 0.1, 0.15, 0.2, 0.25])
def test_a_reconstructed_average_is_the_one_tracked_directly(snapshots, width):
    """Off by less than 3% of what lies between it and the last state; the other average at hand is far off."""
    states = walk()
    truth = tracked(states, width)[-1]
    found = reconstruct(find_snapshots(snapshots), width)["w"].double()
    scale = (states[-1] - truth).norm()
    assert (found - truth).norm() / scale < 0.03
    assert (tracked(states, 0.12)[-1] - truth).norm() / scale > 0.05


def test_an_earlier_end_is_reconstructed_from_what_was_saved_until_then(snapshots):
    states = walk()
    truth = tracked(states, 0.15)[999]
    found = reconstruct(find_snapshots(snapshots), 0.15, step=1000)["w"].double()
    assert (found - truth).norm() / (states[999] - truth).norm() < 0.03


def test_inner_products_are_the_integrals_of_the_profiles():
    tau = (np.arange(200_000) + 0.5) / 200_000 * 9

    def profile(t, gamma):
        return np.where(tau <= t, (gamma + 1) * tau**gamma / t ** (gamma + 1), 0)

    for a, b in [((9.0, 2.0), (4.0, 7.0)), ((4.0, 7.0), (9.0, 2.0)), ((6.0, 1.5), (6.0, 3.0))]:
        integral = (profile(*a) * profile(*b)).mean() * 9
        assert inner_product(a, b) == pytest.approx(integral, rel=1e-3)


def test_a_profile_at_hand_is_taken_as_it_is():
    factors = shares([(500, 0.05), (500, 0.1), (1000, 0.05), (1000, 0.1)], 0.1, 1000)
    assert factors == pytest.approx([0, 0, 0, 1], abs=1e-6)
    assert power_law_exponent(0.1) < power_law_exponent(0.05)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_run_leaves_snapshots_and_goes_on_with_them_after_a_resume(tmp_path, dtype):
    def snapshots(name):
        return EMASnapshots(tmp_path / name / FOLDER, 2, WIDTHS, dtype)

    straight = snapshots("straight")
    fit(tiny_module(), [*all_segments(), straight], 6)
    fit(tiny_module(), [*all_segments(), snapshots("cut"), saved_at(tmp_path, 3)], 3, enable_checkpointing=True)
    resumed, module = snapshots("cut"), tiny_module()
    fit(module, [*all_segments(), resumed], 6, ckpt_path=tmp_path / "step=3.ckpt")
    for width in WIDTHS:
        assert largest_gap(resumed.averages[width], straight.averages[width]) == 0
        assert largest_gap(resumed.averages[width], weights(module)) > 1e-4
    files = [sorted(path.name for path in (tmp_path / name / FOLDER).iterdir()) for name in ("straight", "cut")]
    assert files[0] == files[1]
    assert [s.step for s in find_snapshots(tmp_path / "cut")] == [2, 2, 4, 4, 6, 6]
    gap = largest_gap(reconstruct(find_snapshots(tmp_path / "cut"), 0.1), straight.averages[0.1])
    assert gap < (2e-3 if dtype == "float16" else 1e-5)


@pytest.mark.parametrize("bad", [{"every": 0}, {"sigma_rels": [0.1]}, {"sigma_rels": [0.1, 0.3]}, {"dtype": "int8"}])
def test_bad_settings_are_errors(tmp_path, bad):
    with pytest.raises(ValueError, match="snapshots"):
        EMASnapshots(tmp_path, **{"every": 2, **bad})


def test_what_cannot_be_reconstructed_is_refused_by_name(tmp_path, snapshots):
    with pytest.raises(ValueError, match=r"no EMA snapshots.*snapshots\.every"):
        find_snapshots(tmp_path)
    with pytest.raises(ValueError, match=r"ema_sigma_rel=0\.5"):
        reconstruct(find_snapshots(snapshots), 0.5)
    with pytest.raises(ValueError, match="step=5000"):
        reconstruct(find_snapshots(snapshots), 0.1, step=5000)
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad\.safetensors"):
        find_snapshots(tmp_path)
