"""A teacher's scores are kept for runs with the same teacher, judge and samples, and for no others."""

import math
import shutil
from functools import partial

import pytest

from commands import results, train
from decm.experiment import teacher_scores
from decm.experiment.teacher_scores import TeacherScores
from decm.experiment.teachers import TeacherBundle
from decm.runs.folders import run_folders


@pytest.fixture
def committed(monkeypatch):
    """Code without changes of its own: of other code no scores are kept."""
    monkeypatch.setattr(teacher_scores, "code_version", lambda: "1.0+abc")


@pytest.fixture(autouse=True)
def nothing_kept(runs):
    """Without what the run of all tests has kept."""
    shutil.rmtree(runs / "cache" / teacher_scores.FOLDER, ignore_errors=True)


def newest(runs):
    return max(run_folders(runs, "smoke"), key=lambda folder: folder.stat().st_mtime_ns)


def scored(runs, *overrides):
    """(results, what was said) of a short run."""
    answer = train(runs, "max_steps=2", *overrides)
    assert answer.code == 0, answer.said
    return results(newest(runs)), answer.out


def files(runs):
    return sorted((runs / "cache" / teacher_scores.FOLDER).glob("*.json"))


def test_another_student_does_not_score_the_same_teacher_again(runs, committed):
    first, said = scored(runs, "seed=1")
    assert "evaluating teacher" in said
    assert len(files(runs)) == len(first["teacher"])
    second, said = scored(runs, "seed=2")
    assert "evaluating teacher" not in said
    assert "as scored before" in said
    assert second["teacher"] == first["teacher"]
    assert second["student"] != first["student"]


@pytest.mark.parametrize(
    "change", ["evaluation.seed=7", "evaluation.num_samples=50", "teacher.guidance.scale=2", "data.heldout=310"]
)
def test_other_samples_or_another_judge_are_scored_anew(runs, committed, change):
    first, _ = scored(runs, "seed=1")
    second, said = scored(runs, "seed=1", change)
    assert "as scored before" not in said
    assert second["teacher"] != first["teacher"]


def test_a_step_count_that_is_missing_alone_is_scored(runs, committed):
    scored(runs, "seed=1", "evaluation.nfe=[1]")
    both, said = scored(runs, "seed=1", "evaluation.nfe=[1,2]")
    assert "evaluating teacher, 2 steps" in said
    assert "evaluating teacher, 1 step" not in said
    assert list(both["teacher"]) == ["1", "2"]


def test_a_damaged_file_is_made_anew(runs, committed):
    first, _ = scored(runs, "seed=1")
    for path in files(runs):
        path.write_text(path.read_text()[:5])
    again, said = scored(runs, "seed=2")
    assert "as scored before" not in said
    assert again["teacher"] == first["teacher"]


def test_code_with_changes_of_its_own_keeps_nothing(runs, monkeypatch):
    monkeypatch.setattr(teacher_scores, "code_version", lambda: "1.0+abc-dirty")
    scored(runs, "seed=1")
    assert not files(runs)


def test_of_somebodys_own_judge_nothing_is_kept(tmp_path, monkeypatch, committed):
    """Its code may change without a new version of decm."""
    settings = {
        "data": {"_target_": "decm.data.arrays.digits"},
        "network": {"_target_": "decm.networks.dit.LightningDiT"},
        "teacher": {"guidance": {}},
        "evaluation": {"protocol": {"_target_": "decm.protocols.pictures.digit_images"}, "seed": 0},
    }
    source = TeacherBundle(None, flow_map=object())
    monkeypatch.setattr(teacher_scores, "read_config", lambda folder: settings)
    assert teacher_scores.teacher_scores(tmp_path, tmp_path, source, "cpu") is not None
    for part in (settings["data"], settings["network"], settings["evaluation"]["protocol"]):
        with monkeypatch.context() as context:
            context.setitem(part, "_target_", "mine.something")
            assert teacher_scores.teacher_scores(tmp_path, tmp_path, source, "cpu") is None


def test_figures_of_samples_that_are_not_finite_are_not_kept(tmp_path):
    class Evaluator:
        sampler = staticmethod(lambda nfe, trained_on: "euler")

    known = TeacherScores(tmp_path / "scores", {})
    made = partial(dict, {1: {"value": math.nan}, 2: {"value": 0.5}})
    assert known.completed(Evaluator, [1, 2], lambda nfes: made())[2] == {"value": 0.5}
    assert known.completed(Evaluator, [1, 2], lambda nfes: {nfe: {"value": 9.0} for nfe in nfes}) == {
        1: {"value": 9.0},
        2: {"value": 0.5},
    }
