"""How far a job of several stages is, and how long it still takes."""

import pytest

from decm.evaluation.progress import LINE_EVERY, Job, lasting


@pytest.fixture
def clock(monkeypatch):
    """Seconds that have passed, as a list of one."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_what_is_left_is_the_stages_own_pace_and_for_later_stages_the_average(clock, capsys):
    """The first stage of cost 30 takes 2 seconds a unit; the last, of cost 10, follows at what all took so far."""
    job = Job("run", {"teacher": 30.0, "training": 60.0, "evaluation": 10.0})
    job.at("teacher", 0.0)
    clock[0] += 30
    job.at("teacher", 0.5)
    assert lines(capsys) == ["run  teacher 50%  job 15%, 2 min 50 s left"]  # 15 and 70 units at 2 s
    clock[0] += 30
    job.at("teacher", 1.0)
    job.at("training", 0.0)
    clock[0] += 30
    job.at("training", 0.5, lambda: "step 5/10")  # 1 second a unit: 30 s, and 10 units at 90 s / 60
    assert lines(capsys)[-1] == "run  training 50%  job 60%, 45 s left  step 5/10"


def test_what_an_earlier_process_did_counts_for_the_share_and_not_for_the_pace(clock, capsys):
    job = Job("run", {"teacher": 30.0, "training": 60.0})
    job.at("training", 0.5)  # goes on
    clock[0] += 10
    job.at("training", 0.75)
    assert lines(capsys) == ["run  training 75%  job 83%, 10 s left"]


def test_a_line_comes_every_few_seconds_and_at_the_end_of_a_stage(clock, capsys):
    job, asked = Job("run", {"training": 1.0}), []
    for step in range(101):
        clock[0] += LINE_EVERY / 10
        job.at("training", step / 100, lambda: asked.append("") or "")
    assert len(lines(capsys)) == len(asked) == 11


def test_without_costs_or_pace_nothing_is_promised(clock, capsys):
    job = Job("run", {})
    clock[0] += 60
    job.at("training", 0.5)
    assert lines(capsys) == ["run  training 50%"]


def test_times_in_words():
    assert [lasting(seconds) for seconds in (0.4, 59.6, 200, 7500)] == ["0 s", "1 min 0 s", "3 min 20 s", "2 h 5 min"]
