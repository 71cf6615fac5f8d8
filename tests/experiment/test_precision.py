"""Precisions: those that are supported train, and no other is taken for one of them."""

import math

import pytest

from commands import TINY, metrics, only, results, train
from decm.experiment.checks import check_settings
from decm.settings.composition import compose
from decm.training.sharding import PRECISIONS


@pytest.mark.parametrize(
    "precision",
    ["bf16-true", "16-true", "64-true", "16-mixed", "16", "bf16", "transformer-engine", "transformer-engine-float16"],
)
def test_a_precision_that_is_not_supported_is_refused_with_those_that_are(precision):
    with pytest.raises(ValueError, match=rf"trainer\.precision={precision}\b") as refused:
        check_settings(compose("train", [*TINY, f"trainer.precision={precision}"]))
    assert all(supported in str(refused.value) for supported in PRECISIONS)


def test_a_refused_precision_leaves_no_folder(tmp_path):
    answer = train(tmp_path / "runs", "trainer.precision=16-mixed")
    assert (answer.code, "Traceback" in answer.said) == (2, False)
    assert not (tmp_path / "runs").exists()


def test_bfloat16_trains_near_float32_and_not_as_it(cached):
    """The losses after a few steps from the same weights; at the first one the network's output is zero."""
    settings = ["max_steps=4", "evaluation.nfe=[1]", "method=fm", "teacher=none"]
    losses = {}
    for precision in PRECISIONS:
        answer = train(cached, *settings, f"trainer.precision={precision}", f"name={precision}")
        assert answer.code == 0, answer.said
        folder = only(cached / precision)
        losses[precision] = float(metrics(folder)[3]["loss/instantaneous"])
        assert math.isfinite(results(folder)["student"]["1"])
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.05)
    assert losses["bf16-mixed"] != losses["32-true"]
