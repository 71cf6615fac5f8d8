"""The average of the student: a warm-up, a power law, once an optimizer step, and kept over a resume."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from decm.training.callbacks.method.ema import EMA, ema_decay, power_law_exponent
from tiny import all_segments, fit, largest_gap, saved_at, tiny_module, weights

STEPS = 6


class History(Callback):
    """The student after each optimizer step, the first being the one that it starts from."""

    def on_train_start(self, trainer, pl_module):
        self.students = [weights(pl_module)]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == len(self.students):
            self.students.append(weights(pl_module))


def trained(ema, steps=STEPS, **options):
    """(module, students after 0, 1, ... steps)."""
    module, history = tiny_module(), History()
    fit(module, [*all_segments(), ema, history], steps, **options)
    return module, history.students


def weighted_sum(students, shares):
    return {key: sum(w * state[key] for w, state in zip(shares, students, strict=True)) for key in students[0]}


def constant_shares(num, decay):
    """The share of each student in the average, the starting point first, from min(decay, n / (n + 9))."""
    betas = [min(decay, n / (n + 9)) for n in range(1, num + 1)]
    return [np.prod(betas), *((1 - betas[k]) * np.prod(betas[k + 1 :]) for k in range(num))]


def power_shares(num, gamma):
    """The share of the student after step n is proportional to the integral of tau^gamma over [n - 1, n]."""
    return [0.0, *((np.arange(1, num + 1) ** (gamma + 1) - np.arange(num) ** (gamma + 1)) / num ** (gamma + 1))]


def test_constant_average_is_the_direct_weighted_sum():
    module, students = trained(EMA("constant", decay=0.3))
    shares = constant_shares(STEPS, 0.3)
    assert sum(shares) == pytest.approx(1)
    assert largest_gap(weights(module, "ema"), weighted_sum(students, shares)) < 1e-6
    assert largest_gap(weights(module, "ema"), weighted_sum(students, constant_shares(STEPS, 0.5))) > 1e-4


def test_power_law_average_is_the_direct_weighted_sum():
    sigma_rel = 0.1
    module, students = trained(EMA("power", sigma_rel=sigma_rel))
    shares = power_shares(STEPS, power_law_exponent(sigma_rel))
    assert sum(shares) == pytest.approx(1)
    assert largest_gap(weights(module, "ema"), weighted_sum(students, shares)) < 1e-5
    assert largest_gap(weights(module, "ema"), weighted_sum(students, power_shares(STEPS, 0.5))) > 1e-4


def test_constant_decay_warms_up_to_its_value():
    betas = [ema_decay(step, "constant", 0.9, 0.1) for step in range(1, 200)]
    assert betas[:2] == [1 / 10, 2 / 11]
    assert betas == sorted(betas)
    assert (betas[79], betas[80], betas[-1]) == (80 / 89, 0.9, 0.9)


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_exponents_of_the_power_law_are_those_published(sigma_rel, gamma):
    """arXiv:2312.02696 Sec. 3.1: widths 5% and 10%."""
    assert power_law_exponent(sigma_rel) == pytest.approx(gamma, abs=5e-3)


@pytest.mark.parametrize("sigma_rel", [0.02, 0.05, 0.1, 0.25])
def test_the_profile_of_the_power_law_has_the_relative_width_asked_for(sigma_rel):
    """The standard deviation of tau^gamma on [0, 1], integrated numerically."""
    tau = (np.arange(400_000) + 0.5) / 400_000
    weight = tau ** power_law_exponent(sigma_rel)
    weight /= weight.sum()
    mean = (weight * tau).sum()
    assert np.sqrt((weight * (tau - mean) ** 2).sum()) == pytest.approx(sigma_rel, rel=1e-4)


def test_the_first_step_of_the_power_law_forgets_the_starting_point():
    assert ema_decay(1, "power", 0.0, 0.1) == 0


@pytest.mark.parametrize("kind", ["constant", "power"])
def test_the_average_moves_once_an_optimizer_step_under_accumulation(kind):
    whole, _ = trained(EMA(kind))
    ema = EMA(kind)
    cut, students = trained(ema, accumulate_grad_batches=4)
    assert ema.step == STEPS == len(students) - 1
    assert largest_gap(weights(whole, "ema"), weights(cut, "ema")) < 1e-5


@pytest.mark.parametrize("kind", ["constant", "power"])
def test_the_average_goes_on_after_a_resume(tmp_path, kind):
    straight, _ = trained(EMA(kind))
    module = tiny_module()
    fit(module, [*all_segments(), EMA(kind), saved_at(tmp_path, 4)], 4, enable_checkpointing=True)
    resumed, ema = tiny_module(), EMA(kind)
    fit(resumed, [*all_segments(), ema], STEPS, ckpt_path=tmp_path / "step=4.ckpt")
    assert ema.step == STEPS
    assert largest_gap(weights(resumed, "ema"), weights(straight, "ema")) == 0
    assert largest_gap(weights(resumed, "ema"), weights(module, "ema")) > 1e-4


def test_the_average_is_of_the_student_alone():
    """The teacher has other weights of the same names; the average lies between the students."""
    module, students = trained(EMA("constant", decay=0.5))
    low = {key: torch.stack([s[key] for s in students]).min(0).values for key in students[0]}
    high = {key: torch.stack([s[key] for s in students]).max(0).values for key in students[0]}
    average = weights(module, "ema")
    assert average.keys() == low.keys()
    assert all(((average[k] >= low[k] - 1e-6) & (average[k] <= high[k] + 1e-6)).all() for k in average)
    assert not any(name.startswith("ema") for name, p in module.named_parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "bad", [{"kind": "mean"}, {"decay": 1.0}, {"decay": -0.1}, {"sigma_rel": 0.0}, {"sigma_rel": 0.3}]
)
def test_bad_settings_are_errors(bad):
    with pytest.raises(ValueError, match="ema: "):
        EMA(**bad)
