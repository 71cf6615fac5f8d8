"""Sweeps: jobs without training, jobs that are done already, a second start, jobs that fail, what is refused."""

import os
import shutil

import pytest
import submitit
import yaml

from commands import NO_TEACHER, TINY, decm, only, results, train
from decm.runs.exits import JobError
from decm.sweeps import job as sweep_job
from decm.sweeps import submitit_jobs as sweep_submitit
from decm.sweeps.table import report

GUIDANCE = [
    "sweep=guidance",
    "teacher.guidance.scale=1.0,9.0",
    "teacher.guidance.eta_rms=null,0.5",
    "evaluation.nfe=[1,4]",
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def swept(finished, tmp_path_factory):
    """(the sweep's folder, what was said); its jobs differ in the teacher's guidance. Not to be written to."""
    runs = finished.begin(tmp_path_factory.mktemp("swept"))
    answer = train(runs, *GUIDANCE)
    assert answer.code == 0, answer.said
    return only(runs / "smoke" / "multirun"), answer


def test_each_job_scores_the_teacher_as_it_is_guided_and_trains_nothing(swept):
    folder, answer = swept
    runs = folder.parents[2]
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
    assert rows[0] == ["job", "teacher.guidance.scale", "teacher.guidance.eta_rms", "teacher, NFE 1", "teacher, NFE 4"]
    values = [float(row[-1]) for row in rows[2:]]
    assert values == sorted(values)
    assert len(values) == 4
    (line,) = [line.strip() for line in table.splitlines() if line.startswith("    decm train experiment=smoke")]
    assert line.endswith(f"teacher.guidance.scale={float(rows[2][1])} teacher.guidance.eta_rms={rows[2][2]}")
    assert "All jobs are finished." in table


def test_without_a_teacher_or_for_a_dry_run_there_is_nothing_to_score(cached):
    for overrides, said in (
        (NO_TEACHER, "distill=false scores the teacher"),
        (["dry_run=true"], "describes a distill"),
    ):
        answer = decm("train", *TINY, f"runs={cached}", "distill=false", *overrides)
        assert answer.code == 2
        assert said in answer.err


FAST = ["max_steps=2", "evaluation.nfe=[1]"]


@pytest.fixture(scope="module")
def kept_pair(finished, tmp_path_factory):
    """(a root of runs with a sweep over two seeds, the second of which lost its results; a copy of it)."""
    runs = finished.begin(tmp_path_factory.mktemp("pair") / "runs")
    answer = train(runs, "-m", "seed=0,1", *FAST)
    assert answer.code == 0, answer.said
    (only(runs / "smoke" / "multirun") / "1" / "results.json").unlink()
    return runs, shutil.copytree(runs, runs.with_name("copy"), symlinks=True)


@pytest.fixture
def pair(kept_pair):
    """(the root of runs, the folder) of that sweep, as it was, at its own place."""
    runs, copy = kept_pair
    shutil.rmtree(runs)
    shutil.copytree(copy, runs, symlinks=True)
    return runs, only(runs / "smoke" / "multirun")


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("how", ["resume=auto", "resume={}", "hydra.sweep.dir={}"])
def test_a_second_start_does_what_is_left_alone(pair, how):
    """With the sweep's folder, or without: a newer one of other overrides is not taken for it."""
    runs, folder = pair
    other = folder.parent / "2999-01-01_00-00-00"
    shutil.copytree(folder, other)
    (other / "sweep.yaml").write_text(yaml.safe_dump({"overrides": ["experiment=smoke"], "jobs": 2}))
    before = times(folder / "0")
    answer = train(runs, "-m", "seed=0,1", *FAST, how.format(folder))
    assert answer.code == 0, answer.said
    assert f"Sweep of 2 jobs, 1 of them done, in {folder}" in answer.out
    assert f"{folder / '0'} is done" in answer.out
    assert f"Continuing {folder / '1'} at step 2 of 2" in answer.out
    assert times(folder / "0") == before
    assert results(folder / "1")["seed"] == 1
    assert not (other / "1" / "results.json").exists()


def test_a_sweep_that_is_finished_is_not_continued_by_itself(pair):
    runs, folder = pair
    shutil.copy(folder / "0" / "results.json", folder / "1" / "results.json")
    answer = train(runs, "-m", "seed=0,1", *FAST, "resume=auto", "launcher=basic")
    assert answer.code == 0, answer.said
    assert "is done" not in answer.out
    assert len(list(folder.parent.iterdir())) == 2


def test_other_settings_in_the_folder_of_a_job_are_refused_and_nothing_is_written(pair):
    runs, folder = pair
    before = times(folder / "0")
    answer = train(runs, "-m", "seed=7,1", *FAST, f"hydra.sweep.dir={folder}")
    assert answer.code == 2
    assert "another sweep: its job 0 has seed=0; expected seed=7" in answer.err
    assert times(folder / "0") == before
    assert not (folder / "1" / "results.json").exists()


def test_a_job_whose_settings_have_changed_is_refused_and_the_other_is_done(pair):
    """The same words, of an experiment that has been edited since."""
    runs, folder = pair
    file = folder / "0" / "config.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "label_drop": 0.5}))
    before = results(folder / "0"), file.read_text()
    answer = train(runs, "-m", "seed=0,1", *FAST, f"hydra.sweep.dir={folder}")
    assert (answer.code, "label_drop" in answer.err) == (2, True)
    assert (results(folder / "0"), file.read_text()) == before
    assert results(folder / "1")["seed"] == 1


def test_a_folder_that_is_not_this_sweep_is_no_place_to_resume(pair):
    runs, folder = pair
    for place, said in ((folder, "is one of"), (folder / "0", "is without sweep.yaml")):
        answer = train(runs, "-m", "seed=0,2", *FAST, f"resume={place}")
        assert answer.code == 2
        assert said in answer.err


def test_a_job_that_fails_does_not_stop_the_others_and_the_report_names_it(runs):
    answer = train(runs, "-m", "batch_size=16,15", "accumulate=2", *FAST)
    assert answer.code == 2
    assert "batch_size" in answer.err
    assert "Traceback" not in answer.said
    folder = only(runs / "smoke" / "multirun")
    assert (folder / "0" / "results.json").is_file()
    assert answer.err.splitlines()[-1].startswith("decm: 1 of 2 jobs failed. job 1: batch_size=15")
    table = (folder / "sweep.md").read_text()
    assert table in answer.out
    assert "- job 1 (batch_size=15): batch_size=15" in table
    assert "Unfinished: failed: 1." in table
    again = decm("report", folder)
    assert again.code == 0, again.said
    assert table in again.out


def start_of(runs, *paths):
    """A sweep over teachers, which trains nothing."""
    fast = ["distill=false", "evaluation.nfe=[1]", "teacher=checkpoint", "resume=auto"]
    return train(runs, "-m", *fast, f"teacher.path={','.join(map(str, paths))}")


def test_a_job_that_failed_is_done_again_and_its_failure_is_forgotten(runs):
    """Several failures are told each in its own words, and the exit code is of the first."""
    teacher, later, never = only(runs / "teacher_smoke"), runs / "later", runs / "never"
    answer = start_of(runs, later, teacher, never)
    assert answer.code == 2
    folder = only(runs / "smoke" / "multirun")
    assert "2 of 3 jobs failed. job 0: " in answer.err
    for number, path in ((0, later), (2, never)):
        (line,) = [
            line for line in (folder / "sweep.md").read_text().splitlines() if line.startswith(f"- job {number} ")
        ]
        assert f"(teacher.path={path}): " in line
        assert "does not exist" in line
    assert results(folder / "1")["teacher"]
    for path in (later, never):
        shutil.copytree(teacher, path, symlinks=True)
    answer = start_of(runs, later, teacher, never)
    assert answer.code == 0, answer.said
    assert "All jobs are finished." in (folder / "sweep.md").read_text()
    assert only(runs / "smoke" / "multirun") == folder


def test_a_launcher_outside_of_a_sweep_is_refused(cached):
    answer = train(cached, "launcher=joblib")
    assert answer.code == 2
    assert "add -m" in answer.err


@pytest.mark.parametrize("facts", [{"TORCHELASTIC_RUN_ID": "x"}, {"SLURM_STEP_NUM_TASKS": "2"}])
def test_a_sweep_that_several_processes_would_begin_is_refused(cached, monkeypatch, facts):
    for name, value in facts.items():
        monkeypatch.setenv(name, value)
    answer = train(cached, "-m", "seed=0,1")
    assert answer.code == 2
    assert "started by one process" in answer.err
    assert not (cached / "smoke").exists()


def test_a_job_whose_process_has_left_nothing_is_a_failure_that_is_told(tmp_path):
    """By a signal, under joblib and with processes of its own; without a word, under submitit."""
    (tmp_path / "0").mkdir()
    with pytest.raises(JobError, match="ended by SIGKILL"):
        sweep_job.result_of(tmp_path / "0", -9)
    (tmp_path / "1").mkdir()
    executor = submitit.AutoExecutor(folder=tmp_path / "logs", cluster="local")
    executor.update_parameters(timeout_min=1)
    job = executor.submit(os._exit, 3)
    job._results_timeout_s = 1  # for which submitit waits
    returned = sweep_submitit.result_of(job, tmp_path / "1")
    with pytest.raises(JobError, match="has left no result"):
        _ = returned.return_value
    for number in "01":
        (tmp_path / number / "overrides.yaml").write_text("[]\n")
    text = report(tmp_path)
    assert "- job 0: The job in" in text
    assert "- job 1: The process of the job in" in text
    assert "Unfinished: failed: 0, 1." in text


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_launcher_that_would_not_save_its_jobs_is_refused(cached, launcher):
    answer = train(cached, "-m", "seed=0,1", f"hydra/launcher={launcher}")
    assert answer.code == 2
    assert "hydra/launcher" in answer.err
    assert not (cached / "smoke").exists()


def test_slurm_must_know_how_many_tasks_a_job_has(cached):
    answer = train(cached, "-m", "seed=0,1", "launcher=slurm", "trainer=ddp")
    assert answer.code == 2
    assert "trainer.devices=auto, expected a number" in answer.err
