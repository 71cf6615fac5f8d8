"""A run is held against its expected curves: what is above is said once, and so is the return."""

import math

import pytest
from lightning.pytorch import Callback

from decm.evaluation.evaluator import Evaluator
from decm.training.callbacks.evaluation.expected import Curve, Expected
from decm.training.callbacks.evaluation.previews import Evaluate
from decm.training.callbacks.method.ema import EMA
from decm.training.csv_logger import MetricsCSV
from helpers import CLASSES
from tiny import all_segments, fit, saved_at, tiny_module
from training.test_csv_logger import lines

FALLING = Curve("fd/1", [0.125, 1.0], [4.0, 0.5], 1.5)  # over 8 steps: 4 at step 1, 0.5 at step 8
INSIDE = [4.0 * 0.125 ** (k / 7) for k in range(8)]


class Scripted:
    """A judge whose values are given."""

    metric, reference = "scripted", "nothing"

    def __init__(self, values):
        self.values = iter(values)

    def features(self, samples):
        return {"samples": samples}

    def compare(self, features, labels):
        return {"value": next(self.values)}


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= self.step


def held(values, capsys, curves=(FALLING,), more=(), **options):
    """(the callback, what it said) of 8 steps that are evaluated to `values`, one a step."""
    evaluate = Evaluate(1, (1,), 4, Evaluator(Scripted(values), (2, 1, 1), CLASSES), None, ("consistency",))
    expected = Expected(evaluate, curves)
    fit(tiny_module(), [all_segments()[0], EMA(), evaluate, expected, *more], 8, log_every_n_steps=100, **options)
    return expected, capsys.readouterr().out.splitlines()


def test_a_run_that_follows_the_curve_says_so_at_its_end_alone(tmp_path, capsys):
    expected, said = held(INSIDE, capsys, logger=MetricsCSV(tmp_path))
    assert said == ["Expected curve: the run stayed inside; times the expected value at the last evaluation: fd/1 1."]
    assert expected.report() == {"fd/1": {"ratio_at_end": pytest.approx(1.0), "inside": True}}
    ratios = [float(line["expected/fd/1"]) for line in lines(tmp_path)]
    assert ratios == pytest.approx([1.0] * 8)


def test_what_is_logged_is_the_value_over_the_expected_one(tmp_path, capsys):
    held([1.2 * value for value in INSIDE], capsys, logger=MetricsCSV(tmp_path))
    assert [float(line["expected/fd/1"]) for line in lines(tmp_path)] == pytest.approx([1.2] * 8)


def test_a_run_above_its_band_says_it_once_and_once_that_it_is_back(capsys):
    values = [*INSIDE[:2], *(2 * value for value in INSIDE[2:5]), *INSIDE[5:]]
    expected, said = held(values, capsys)
    low, high = INSIDE[2] / 1.5, INSIDE[2] * 1.5
    assert said[0] == (
        f"fd/1 is {2 * INSIDE[2]:.4g} at step 3 of 8, expected {low:.3g} to {high:.3g}: "
        "the run has left its expected curve."
    )
    assert said[1].startswith(f"fd/1 is {INSIDE[5]:.4g} at step 6 of 8, expected ")
    assert said[1].endswith(": back on its expected curve.")
    assert said[2].startswith("Expected curve: the run left it: fd/1 was above it at 3 of 8 evaluations; ")
    assert len(said) == 3
    assert expected.report() == {"fd/1": {"ratio_at_end": pytest.approx(1.0), "inside": False}}


def test_leaving_a_second_time_is_said_again(capsys):
    high = 2 * INSIDE[0]
    _, said = held([high, INSIDE[1], high, high, high, high, high, high], capsys)
    assert [line.split(" at ")[1].split(",")[0] for line in said[:-1]] == ["step 1 of 8", "step 2 of 8", "step 3 of 8"]


def test_below_the_band_is_good_news_and_inside(capsys):
    expected, said = held([value / (2 if k == 3 else 1) for k, value in enumerate(INSIDE)], capsys)
    assert len(said) == 2
    assert said[0].endswith(": better than its expected curve.")
    assert said[1].startswith("Expected curve: the run stayed inside;")
    assert expected.report()["fd/1"]["inside"] is True


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_above(value, capsys):
    expected, said = held([*INSIDE[:7], value], capsys)
    assert said[0].endswith("the run has left its expected curve.")
    assert expected.report()["fd/1"]["inside"] is False


def test_between_its_shares_a_curve_is_log_linear_and_beyond_them_it_says_nothing():
    curve = Curve("fd/1", [0.2, 0.6, 1.0], [16.0, 4.0, 1.0], 1.5)
    assert [curve(share) for share in (0.2, 0.4, 0.6, 0.8, 1.0)] == pytest.approx([16, 8, 4, 2, 1])  # linear: 10, 2.5
    assert curve(0.3) == pytest.approx(16 / 2**0.5)
    assert (curve(0.1), Curve("fd/1", [0.2, 0.6], [2.0, 1.0], 1.5)(1.0)) == (None, None)
    assert Curve("fd/1", [0.1667, 0.8333], [2.0, 1.0], 1.5)(1 / 6) == pytest.approx(2.0)  # rounded shares in a file
    assert Curve("fd/1", [0.1667, 0.8333], [2.0, 1.0], 1.5)(5 / 6) == pytest.approx(1.0)


def test_steps_before_the_first_share_are_not_compared(capsys):
    late = Curve("fd/1", [0.5, 1.0], [1.0, 1.0], 1.5)
    expected, said = held([99.0, 99.0, 99.0, 1.0, 1.0, 1.0, 1.0, 1.0], capsys, curves=[late])
    assert len(said) == 1
    assert expected.compared == {"fd/1": 5}


def test_a_metric_that_is_not_evaluated_is_named_at_the_end(capsys):
    expected, said = held(INSIDE, capsys, curves=[FALLING, Curve("fd/3", [1.0], [1.0], 2.0)])
    assert said[-1].endswith("not compared, since not evaluated where the curve has values: fd/3.")
    assert list(expected.report()) == ["fd/1"]


def test_a_resumed_run_does_not_say_it_again_and_counts_all_evaluations(tmp_path, capsys):
    high = [2 * value for value in INSIDE]
    first, _ = held(high, capsys, more=[saved_at(tmp_path, 4)], enable_checkpointing=True, default_root_dir=tmp_path)
    resumed, said = held(high[4:], capsys, ckpt_path=tmp_path / "step=4.ckpt")
    assert len(said) == 1
    assert "fd/1 was above it at 8 of 8 evaluations" in said[0]
    assert resumed.report() == first.report()


def test_a_run_that_is_stopped_says_no_verdict(capsys):
    _, said = held(INSIDE, capsys, more=[StopAt(3)])
    assert said == []


def test_an_evaluation_is_compared_once_however_many_micro_batches_follow(capsys):
    expected, _ = held(INSIDE, capsys, accumulate_grad_batches=2)
    assert expected.compared == {"fd/1": 8}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"at": []}, r"at=\[\]"),
        ({"at": [0.0, 1.0]}, r"at=\[0.0, 1.0\]; expected shares of the run that rise, above 0 and up to 1"),
        ({"at": [0.5, 1.1]}, "at="),
        ({"at": [1.0, 0.5]}, "at="),
        ({"at": [0.5, 0.5]}, "at="),
        ({"at": [0.5, math.nan]}, "at="),
        ({"value": [1.0]}, r"value=\[1.0\]; expected 2 positive numbers"),
        ({"value": [1.0, 0.0]}, "value="),
        ({"value": [1.0, math.nan]}, "value="),
        ({"tolerance": 0.9}, "tolerance=0.9; expected a factor of 1 or more"),
        ({"tolerance": math.nan}, "tolerance="),
    ],
)
def test_a_malformed_curve_is_refused_by_name(changes, said):
    facts = {"metric": "fd/1", "at": [0.5, 1.0], "value": [2.0, 1.0], "tolerance": 1.0}
    Curve(**facts)
    with pytest.raises(ValueError, match=f"expected.curves.fd/1.{said}"):
        Curve(**{**facts, **changes})
