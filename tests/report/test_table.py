"""The table of a run says teacher and student at each NFE, and what a reader must know to trust it."""

import copy

import pytest

from decm.evaluation.judge import PointsJudge, metric_of
from decm.evaluation.titles import TITLES, judge_note
from decm.features.build import EXTRACTORS
from decm.generator.card import results_table
from decm.report.table import markdown, show, table_rows

RESULTS = {
    "experiment": "decm_digits",
    "seed": 3,
    "metric": "frechet_distance",
    "reference": "1497 training images",
    "num_samples": 2000,
    "floor": {"value": 0.1234, "heldout": 0.5678},
    "samplers": {"1": "jump", "50": "euler"},
    "teacher": {"1": 9.5, "50": 1.25},
    "student": {"1": 1.5, "50": 1.125},
    "accuracy": {"1": 0.98, "50": 0.99},
    "memorized": {"1": 0.05, "50": 0.06},
    "seconds": {"teacher": 10.4, "distill": 99.6, "evaluate": 3.0},
    "teacher_reused": True,
    "forward_equivalents": 123456.0,
}


def without(*keys):
    results = copy.deepcopy(RESULTS)
    for key in keys:
        del results[key]
    return results


def test_rows_are_teacher_student_and_figures_at_each_nfe():
    header, rows = table_rows(RESULTS)
    assert header == ["NFE", "1", "50"]
    assert rows == [
        ["teacher", "9.500", "1.250"],
        ["student", "1.500", "1.125"],
        ["sampler", "jump", "euler"],
        ["accuracy", "0.980", "0.990"],
        ["memorized", "0.050", "0.060"],
    ]


def test_markdown_is_a_table_of_even_width_with_its_title():
    text = markdown(RESULTS)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert text.startswith("# decm_digits\n")
    assert len(lines) == 2 + 5
    assert {line.count("|") for line in lines} == {4}
    assert lines[1] == "| --- | ---: | ---: |"


def test_notes_say_metric_samples_reference_floor_and_heldout():
    text = markdown(RESULTS)
    assert "Frechet distance of 2000 samples to 1497 training images" in text
    assert "floor 0.123" in text
    assert "held-out data 0.568" in text
    assert "lower is better" in text
    assert "seed 3; teacher 10 s, distill 100 s, evaluate 3 s (teacher reused)" in text
    assert "1.23e+05 forward-equivalents" in text


@pytest.mark.parametrize(("score", "weak"), [(0.95, False), (0.54, True), (1.0, False)])
def test_notes_say_how_good_the_classifier_is_that_judges(score, weak):
    """Weak is nearer to guessing, 0.1, than to 1: below 0.55."""
    floor = {**RESULTS["floor"], "heldout_accuracy": score, "guess_accuracy": 0.1}
    text = markdown({**RESULTS, "floor": floor})
    assert f"right on {score:.1%} of held-out images" in text
    assert ("say little" in text) is weak
    assert "right on" not in markdown(RESULTS)
    assert judge_note({"floor": floor}) in results_table({**RESULTS, "floor": floor})  # in a model card


def test_what_was_not_measured_is_not_mentioned():
    results = without("accuracy", "memorized")
    results["floor"].pop("heldout")
    results["teacher"], results["teacher_reused"] = {}, False
    text = markdown(results)
    assert [row[0] for row in table_rows(results)[1]] == ["student", "sampler"]
    assert not any(word in text for word in ("accuracy", "memorized", "held-out", "reused", "| teacher"))


def test_map_errors_stand_below_the_table():
    text = markdown({**RESULTS, "metric": "sliced_wasserstein", "map_error": {"0_1": 0.12345, "v": 0.2}})
    assert "sliced Wasserstein distance of" in text
    assert "against the exact flow: 0_1 0.1234" in text or "0_1 0.1235" in text
    assert "v 0.2000" in text


def test_an_nfe_that_the_teacher_lacks_is_left_blank():
    results = copy.deepcopy(RESULTS)
    del results["teacher"]["1"]
    assert table_rows(results)[1][0] == ["teacher", "", "1.250"]


@pytest.mark.parametrize("width", [20, 200])
def test_the_terminal_shows_the_table_the_notes_and_the_paths(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    show(RESULTS, {"pictures": "/some/where/comparison.png"})
    said = capsys.readouterr().out
    assert "/some/where/comparison.png" in said
    assert "teacher" in said
    assert "floor 0.123" in said


def test_every_judges_metric_has_a_title():
    of_features = {metric_of(extractor) for extractor in EXTRACTORS.values() if hasattr(extractor, "metric")}
    assert of_features | {"frechet_distance", PointsJudge.metric} == set(TITLES)
