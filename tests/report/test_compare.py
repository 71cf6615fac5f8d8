"""Several runs on one page: the best is marked, seeds are aligned, settings that differ are told."""

import re
from dataclasses import replace

import pytest

from decm.evaluation.titles import judge_note
from decm.report.compare import best, compare, names_of
from run_folders import CONFIG, RESULTS, make_run


@pytest.fixture
def pair(tmp_path):
    better = {**RESULTS, "student": {"1": 1.0, "2": 2.0}, "accuracy": {"1": 0.99, "2": 0.95}}
    other = {**CONFIG, "seed": 4, "method": {"instantaneous": {"weight": 1.0}}}
    return [make_run(tmp_path / "a"), make_run(tmp_path / "b", other, results=better, seed=1)]


def test_the_best_is_marked_and_ties_are_all_best():
    assert best([1.0, 2.0, None, 1.0]) == [True, False, False, True]
    assert best([1.0, 2.0], higher=True) == [False, True]
    assert best([1.0, None]) == [False, False]
    assert best([1.0, 1.0]) == [False, False]


def test_what_is_not_finite_is_never_the_best():
    nan, inf = float("nan"), float("inf")
    assert best([nan, 1.0, 2.0]) == [False, True, False]
    assert best([2.0, nan], higher=True) == [True, False]
    assert best([inf, 1.0], higher=True) == best([-inf, 1.0]) == [False, True]
    assert best([nan, inf]) == [False, False]


def test_the_best_scores_are_bold_and_no_others(pair):
    text = compare(pair)
    assert '<td class="best">1.000</td>' in text  # b at one step
    assert '<td class="best">1.125</td>' in text  # a at two
    assert '<td class="best">0.990</td>' in text  # the higher accuracy
    assert text.count('class="best"') == 3


def test_how_good_the_classifier_is_that_judges_is_told_once(pair):
    floor = {"heldout_accuracy": 0.2, "guess_accuracy": 0.1}
    judged = [replace(run, results={**run.results, "floor": floor}) for run in pair]
    assert compare(judged).count(judge_note({"floor": floor})) == 1
    assert "right on" not in compare(pair)


def test_names_are_the_shortest_ends_that_differ(tmp_path):
    assert names_of([tmp_path / "x" / "1", tmp_path / "y" / "1"]) == ["x/1", "y/1"]
    assert names_of([tmp_path / "x" / "1", tmp_path / "x" / "2"]) == ["1", "2"]
    with pytest.raises(ValueError, match="a run twice"):
        names_of([tmp_path / "x", tmp_path / "y" / ".." / "x"])


def test_settings_that_differ_stand_side_by_side(pair):
    text = compare(pair)
    for key, one, other in (("seed", "3", "4"), ("method", "[consistency]", "[instantaneous]")):
        row = f"<td><code>{key}</code></td>"
        assert row in text
        assert text.index(row) < text.index(one, text.index(row)) < text.index(other, text.index(row))
    assert "max_steps" not in text
    alike = [pair[0], replace(pair[0], folder=pair[1].folder)]
    assert "the runs have the same settings" in compare(alike)


def test_each_nfe_has_the_teachers_row_and_one_of_each_run(pair):
    text = compare(pair)
    for nfe in (1, 2):
        assert text.count(f', NFE {nfe}"') == 3
    assert "Every column starts from the same noise" in text


def test_rows_of_different_seeds_are_said_to_be_so(pair):
    pair[1].config["evaluation"] = {**CONFIG["evaluation"], "seed": 7}
    text = compare(pair)
    assert "evaluated with different seeds" in text
    assert "Every column starts from the same noise" not in text


def test_curves_that_two_runs_have_share_an_axis(pair):
    text = compare(pair)
    assert "<h3>Loss, consistency</h3>" in text
    assert "<h3>Distance, NFE 1</h3>" in text
    (pair[1].folder / "metrics.csv").write_text("step,loss/instantaneous\n0,1.0\n")
    alone = compare(pair)
    assert "<h3>Loss, consistency</h3>" not in alone


def test_runs_of_different_metrics_are_not_drawn_on_one_axis(pair):
    assert "<h3>Frechet distance against network steps</h3>" in compare(pair)
    pair[1].results["metric"] = "sliced_wasserstein"
    text = compare(pair)
    assert "their figures do not compare" in text
    assert "against network steps</h3>" not in text


def test_seven_runs_have_seven_keys(pair, tmp_path):
    more = [make_run(tmp_path / f"more{k}") for k in range(5)]
    text = compare([*pair, *more])
    keys = re.findall(r'<span class="key[^>]*>', text)
    assert len(set(keys)) == len(set(keys[:7])) == 7
    lines = re.findall(r"<i (?:class|style)[^>]*>", text)
    assert len(set(lines)) == 7


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"metric": "sliced_wasserstein"}, "different metrics (Frechet distance; Sliced Wasserstein distance), so"),
        ({"reference": "other"}, "different references (data; other), so"),
        ({"num_samples": 9, "reference": "b"}, "different references (data; b) and numbers of samples (100; 9), so"),
    ],
)
def test_no_run_is_the_best_of_runs_that_were_judged_differently(pair, other, said):
    pair[1].results.update(other)
    text = compare(pair)
    assert said in text
    assert 'class="best"' not in text
    assert "the best in bold" not in text
    assert "against network steps</h3>" not in text
    assert "1.125" in text


def test_noise_and_teacher_are_shared_only_by_runs_of_the_same_data(pair):
    shared, teachers = "Every column starts from the same noise", '<div class="row under">'
    assert shared in compare(pair)
    assert teachers in compare(pair)
    pair[1].config["teacher"] = {"kind": "path"}
    text = compare(pair)
    assert shared in text  # whatever the teacher was
    assert teachers not in text
    pair[1].config["data"] = {"path": "elsewhere"}
    text = compare(pair)
    assert shared not in text
    assert "These runs are of different data, so that columns do not correspond." in text
    assert "sample, class" not in text


def test_settings_that_are_missing_are_left_blank(pair):
    for key in ("max_steps", "seed", "method"):
        pair[1].config.pop(key)
    assert "2 runs compared" in compare(pair)


def test_an_unfinished_run_can_be_compared(pair, tmp_path):
    early = make_run(tmp_path / "c", results=None)
    text = compare([*pair, early])
    assert "unfinished" in text
    assert "3 runs compared" in text
