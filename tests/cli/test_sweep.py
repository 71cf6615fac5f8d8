"""`sweep=guidance` scores the teacher over its guidance, trains no student, and ends with a table, the best first."""

import pytest
import yaml

from commands import NO_TEACHER, TINY, decm, only, results, train
from decm.cli.sweep import read_jobs, sweep_table

GUIDANCE = [
    "sweep=guidance", "teacher.guidance.scale=1.0,9.0", "teacher.guidance.eta_rms=null,0.5", "evaluation.nfe=[1,4]",
]  # fmt: skip


@pytest.fixture
def swept(runs):
    """(the sweep's folder, what was said); its jobs differ in the teacher's guidance."""
    answer = train(runs, *GUIDANCE)
    assert answer.code == 0, answer.said
    return only(runs / "smoke" / "multirun"), answer


def test_each_job_scores_the_teacher_as_it_is_guided_and_trains_nothing(swept, runs):
    folder, answer = swept
    jobs = [folder / str(number) for number in range(4)]
    assert "Training" not in answer.out
    assert len(list((runs / "teacher_smoke").iterdir())) == 2  # the run and its lock
    for job in jobs:
        found = results(job)
        assert (list(found["teacher"]), found["student"], found["teacher_reused"]) == (["1", "4"], {}, True)
        assert set(found["samplers"].values()) == {"euler"}
        assert "accuracy" in found
        assert (job / "comparison.png").is_file()
        assert not (job / "checkpoints").exists()
    by_guidance = {
        (config["scale"], config["eta_rms"]): results(job)["teacher"]["4"]
        for job in jobs
        for config in [yaml.safe_load((job / "config.yaml").read_text())["teacher"]["guidance"]]
    }
    assert len(by_guidance) == 4
    assert by_guidance[1.0, None] == by_guidance[1.0, 0.5]  # nothing to normalize
    assert by_guidance[9.0, None] != by_guidance[1.0, None]


def test_a_sweep_ends_with_a_table_that_names_the_best(swept):
    folder, answer = swept
    table = (folder / "sweep.md").read_text()
    assert table in answer.out
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    assert rows[0] == ["teacher.guidance.scale", "teacher.guidance.eta_rms", "teacher, NFE 1", "teacher, NFE 4"]
    values = [float(row[-1]) for row in rows[2:]]
    assert values == sorted(values)
    assert len(values) == 4
    best = rows[2]
    assert f"Best: teacher.guidance.scale={best[0]} teacher.guidance.eta_rms={best[1]}" in table


def test_a_sweep_of_students_has_their_figures(tmp_path):
    """The table is of what the jobs have, whatever was swept; a job without results is left out."""
    for number, (seed, value) in enumerate([(0, 3.0), (1, 2.0), (2, None)]):
        (tmp_path / str(number) / ".hydra").mkdir(parents=True)
        overrides = ["experiment=smoke", f"seed={seed}"]
        (tmp_path / str(number) / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
        if value is not None:
            found = '{"student": {"2": %s}, "teacher": {"2": 9}, "metric": "m", "num_samples": 4, "reference": "r"}'
            (tmp_path / str(number) / "results.json").write_text(found % value)
    lines = sweep_table(read_jobs(tmp_path)).splitlines()
    assert lines[0] == "| seed | student, NFE 2 |"
    assert lines[2:4] == ["| 1 | 2.000 |", "| 0 | 3.000 |"]
    assert lines[-1] == "Best: seed=1"


def test_without_a_teacher_or_for_a_dry_run_there_is_nothing_to_score(cached):
    for overrides, said in (
        (NO_TEACHER, "distill=false scores the teacher"),
        (["dry_run=true"], "describes a distill"),
    ):
        answer = decm("train", *TINY, f"runs={cached}", "distill=false", *overrides)
        assert answer.code == 2
        assert said in answer.err
