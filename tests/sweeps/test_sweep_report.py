"""The report of a sweep: order, the line to paste, unfinished jobs, and what the metric depends on."""

import itertools
import json
import random
import re

import pytest
import yaml

from commands import decm
from decm.evaluation.titles import judge_note
from decm.sweeps.table import importances, report

GRID = list(itertools.product((0.1, 0.2, 0.4), (0, 1, 2), ("a", "b")))
NAMES = ("opt.lr", "seed", "kind")


def made_up(value):
    """A sweep over a grid of three settings whose metric is `value(lr, seed, kind)`."""
    return [(dict(zip(NAMES, map(str, point), strict=True)), value(*point)) for point in GRID]


@pytest.mark.parametrize(
    ("decides", "value"),
    [
        ("opt.lr", lambda lr, seed, kind: 10 * lr**2 + 0.01 * seed),
        ("seed", lambda lr, seed, kind: abs(seed - 1) + 0.01 * lr),
        ("kind", lambda lr, seed, kind: (kind == "b") + 0.01 * seed),
    ],
)
def test_the_setting_that_decides_has_nearly_all_of_the_importance(decides, value):
    found = importances(made_up(value))
    assert set(found) == set(NAMES)
    assert max(found, key=found.get) == decides
    assert found[decides] > 0.9
    assert sum(found.values()) == pytest.approx(1.0)


def test_two_settings_that_matter_alike_share_it():
    found = importances(made_up(lambda lr, seed, kind: (lr > 0.15) + (kind == "a")))
    assert 0.35 < found["opt.lr"] < 0.65
    assert 0.35 < found["kind"] < 0.65
    assert found["seed"] < 0.1


@pytest.mark.parametrize(
    "trials",
    [
        made_up(lambda *point: 1.0),
        made_up(lambda lr, seed, kind: lr)[:3],
        [({"seed": str(k)}, float(k)) for k in range(9)],
        [],
    ],
    ids=["equal figures", "three jobs", "one setting", "none"],
)
def test_where_nothing_can_be_said_nothing_is(trials):
    assert importances(trials) == {}


def test_a_number_counts_on_the_scale_on_which_it_was_drawn():
    """A step at 1e-3: over numbers drawn by decades it splits them, over numbers drawn evenly hardly one is below."""
    rng = random.Random(0)
    decades = [10 ** rng.uniform(-6, 0) for _ in range(60)]
    evenly = [rng.uniform(0, 1) for _ in range(60)]
    other = [rng.uniform(0, 1) for _ in range(60)]

    def share(numbers):
        found = [
            ({"x": str(x), "y": str(y)}, 1.0 * (x > 1e-3) + 0.5 * (y > 0.5))
            for x, y in zip(numbers, other, strict=True)
        ]
        return importances(found)["x"]

    assert share(decades) == pytest.approx(0.8, abs=0.1)  # 1/4 against 1/16
    assert share(evenly) < 0.1


def job(folder, number, overrides, value=None, nfes=("2", "4")):
    place = folder / str(number)
    place.mkdir(parents=True)
    (place / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    if value is not None:
        found = {"student": {nfe: value * int(nfe) ** sign for nfe, sign in zip(nfes, (1, -1), strict=False)}}
        found |= {"teacher": {"2": 9.0}, "metric": "frechet_distance", "num_samples": 4, "reference": "r"}
        (place / "results.json").write_text(json.dumps(found))


@pytest.fixture
def sweep(tmp_path):
    """Four jobs of six have begun, three have results."""
    folder = tmp_path / "e" / "multirun" / "when"
    for number, value in enumerate([3.0, 1.0, 2.0, None]):
        job(folder, number, ["sweep=n2n", f"seed={number}", "experiment=smoke", "data='a b'"], value)
    (folder / "sweep.yaml").write_text(yaml.safe_dump({"overrides": [], "jobs": 6}))
    return folder


def test_the_best_job_is_first_and_its_line_can_be_pasted(sweep):
    lines = report(sweep).splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    assert rows[0] == ["job", "seed", "student, NFE 2", "student, NFE 4"]
    assert [row[0] for row in rows[2:]] == ["1", "2", "0"]
    assert """    decm train experiment=smoke 'data='"'"'a b'"'"'' seed=1""" in lines
    assert "Sorted by the student's frechet distance at NFE 2 (4 samples to r); lower is better." in lines


def test_figures_of_different_data_or_judges_are_said_not_to_compare(sweep):
    assert "do not compare" not in report(sweep)
    assert "The best, to paste" in report(sweep)
    for number, path in enumerate(["a", "b"]):
        job(
            sweep,
            4 + number,
            ["experiment=smoke", "data='a b'", f"data.path={path}", f"evaluation.protocol.keep={number}"],
            0.5,
        )
    text = report(sweep)
    assert "The jobs differ in data.path, evaluation.protocol.keep: their figures do not compare." in text
    assert "The best, to paste" not in text


def test_how_good_the_classifier_is_that_judges_is_told_once(sweep):
    assert "right on" not in report(sweep)
    floor = {"heldout_accuracy": 0.2, "guess_accuracy": 0.1}
    for path in sweep.glob("*/results.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "floor": floor}))
    assert report(sweep).count(judge_note({"floor": floor})) == 1


def test_how_a_job_was_started_is_no_setting_that_was_swept(sweep):
    """A sweep that went on: some of its jobs were begun with resume=auto."""
    job(sweep, 4, ["sweep=n2n", "seed=4", "experiment=smoke", "data='a b'", "resume=auto", "launcher=joblib"], 0.5)
    text = report(sweep)
    assert "| job | seed | student, NFE 2 | student, NFE 4 |" in text
    assert """    decm train experiment=smoke 'data='"'"'a b'"'"'' seed=4\n""" in text


def test_jobs_that_were_scored_differently_have_columns_of_their_own_and_do_not_compare(sweep):
    """Two experiments in one sweep: another number of steps, and a job that scored the teacher alone."""
    job(sweep, 4, ["experiment=other", "data='a b'"], 0.5, nfes=("1", "4"))
    job(sweep, 5, ["experiment=third", "data='a b'"])
    found = {"student": {}, "teacher": {"50": 7.0}, "metric": "frechet_distance", "num_samples": 4, "reference": "q"}
    (sweep / "5" / "results.json").write_text(json.dumps(found))
    lines = report(sweep).splitlines()
    rows = {row[0]: row[3:] for line in lines if line.startswith("|") for row in [line.strip("| ").split(" | ")]}
    assert rows["job"] == ["student, NFE 1", "student, NFE 2", "student, NFE 4", "teacher, NFE 50"]
    assert [cell.strip() for cell in rows["4"]] == ["0.500", "", "0.125"]
    assert rows["5"][-1] == "7.000"
    assert "The best, to paste:" not in lines
    assert "The jobs differ in what was scored: their figures do not compare." in lines


def test_a_job_that_was_trained_longer_since_has_the_figures_of_its_own_length(sweep):
    before = report(sweep)
    results = sweep / "0" / "results.json"
    results.rename(sweep / "0" / "results_step4.json")
    assert report(sweep) == before  # while it is trained
    results.write_text((sweep / "1" / "results.json").read_text().replace("4.0", "0.1"))
    assert report(sweep) == before
    (sweep / "0" / "results_step4.json").unlink()
    assert report(sweep) != before


def test_figures_against_other_data_do_not_compare_whatever_setting_made_them(tmp_path):
    for number in (0, 1):
        job(tmp_path, number, ["experiment=smoke", f"data.split_seed={number}"], 1.0 + number)
        path = tmp_path / f"{number}" / "results.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "data": f"digits, seed {number}"}))
    assert "their figures do not compare" in report(tmp_path)


def test_a_setting_that_is_left_out_stays_so_in_the_line_to_paste(tmp_path):
    job(tmp_path, 0, ["experiment=smoke", "~optimizer.betas", "seed=0"], 1.0)
    assert "    decm train experiment=smoke '~optimizer.betas' seed=0" in report(tmp_path).splitlines()


def test_unfinished_jobs_are_named_and_counted(sweep):
    said = "Unfinished: begun and without results: 3; not begun: 2 of 6. The same command with resume=auto goes on."
    assert said in report(sweep).splitlines()
    for number in (3, 4, 5):
        job(sweep, f"{number}0", [f"seed={number}"], 1.0)
    (sweep / "3" / "overrides.yaml").unlink()
    assert "All jobs are finished." in report(sweep)


def test_a_sweep_without_results_says_so(sweep):
    for path in sweep.glob("*/results.json"):
        path.unlink()
    assert "No job has results yet." in report(sweep)


def test_the_verb_takes_the_folder_and_the_steps_to_sort_by(sweep, tmp_path):
    answer = decm("report", sweep, "nfe=4")
    assert answer.code == 0, answer.said
    assert "at NFE 4" in answer.out
    assert (sweep / "sweep.md").read_text() in answer.out
    assert decm("report", f"path={sweep}").code == 0
    for arguments, said in (([sweep, "nfe=3"], "choose one of 2, 4"), ([tmp_path], "no sweep.yaml in it")):
        answer = decm("report", *arguments)
        assert answer.code == 2
        assert said in answer.err


def rows_of(text):
    """The numbers of the jobs in the table, in its order."""
    return [line.strip("| ").split(" | ")[0] for line in text.splitlines() if line.startswith("| ")][2:]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_job_whose_figure_is_not_finite_is_last_and_never_the_best(sweep, bad):
    results = sweep / "0" / "results.json"
    results.write_text(results.read_text().replace("6.0", json.dumps(bad)))
    text = report(sweep)
    assert rows_of(text) == ["1", "2", "0"]
    assert "experiment=smoke 'data='\"'\"'a b'\"'\"'' seed=1\n" in text
    for number in (1, 2):
        (sweep / f"{number}" / "results.json").unlink()
    text = report(sweep)
    assert rows_of(text) == ["0"]
    assert "to paste" not in text
    assert "No job has a finite figure" in text


def test_importances_are_of_finite_figures_alone(tmp_path):
    for number, (lr, seed) in enumerate(itertools.product((1, 2, 3), (0, 1))):
        job(tmp_path, number, [f"lr={lr}", f"seed={seed}"], float(lr))
    said = next(line for line in report(tmp_path).splitlines() if line.startswith("Importance"))
    job(tmp_path, 9, ["lr=9", "seed=9"], float("nan"))
    assert said in report(tmp_path).splitlines()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("1/results.json", "{", "1/results.json is damaged"),
        ("1/overrides.yaml", "3", "1/overrides.yaml is damaged"),
        ("sweep.yaml", "jobs: many", "sweep.yaml has jobs='many'; expected the number"),
        ("sweep.yaml", "[]", "sweep.yaml is damaged"),
        ("sweep.yaml", "jobs: [", "sweep.yaml is damaged"),
    ],
)
def test_a_damaged_file_of_a_sweep_is_named(sweep, name, content, said):
    (sweep / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(said)):
        report(sweep)
