"""Sweeps over real processes: joblib, submitit here, SLURM's tasks; jobs of two processes; one W&B run a job."""

import json
import os
import signal
import subprocess
import sys

import pytest

import slurm
from commands import TINY, environment, metrics, only, results, train
from forked import decm_beside
from resuming import processes, wait_for

pytestmark = pytest.mark.slow
FAST = ["max_steps=2", "evaluation.nfe=[1]"]
OFFLINE = ["logger=wandb", "logger.mode=offline"]
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.threads=1"]
PATIENCE = 300  # seconds
MARK = "SWEEP_OF"  # in the environment of such a process
LONG = ["max_steps=60", "trainer.checkpoint_every=1000"]


@pytest.fixture(autouse=True)
def children(monkeypatch):
    """What processes that are started from this one need."""
    for name in ("PYTHONPATH", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, environment()[name])
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


@pytest.fixture(scope="module")
def alone(finished, tmp_path_factory):
    """The figures of the same job in this process."""
    runs = finished.begin(tmp_path_factory.mktemp("alone"))
    answer = train(runs, *FAST)
    assert answer.code == 0, answer.said
    return results(only(runs / "smoke"))


def wandb_runs(folder):
    """[(W&B id, group)] of a job, read with W&B's own tool; an id may come twice where a job went on."""
    found = []
    for run in (folder / "wandb").glob("offline-run-*"):
        tool = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
        lines = subprocess.run(tool, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
        (record,) = [line["run"] for line in map(json.loads, lines) if line["type"] == "run"]
        found.append((record["run_id"], record["run_group"]))
    return found


def assert_one_wandb_run_a_job(sweep, jobs):
    (first, group), (second, same) = [run for job in jobs for run in wandb_runs(sweep / job)]
    assert first != second
    assert group == same == f"smoke/{sweep.name}"


@pytest.mark.parametrize(
    ("launcher", "settings", "rounding"),
    [("joblib", OFFLINE, 0), ("slurm_local", TWO, 1e-4)],
    ids=["joblib", "submitit"],
)
def test_jobs_at_once_have_the_figures_of_one_alone_and_a_failure_ends_itself_only(
    runs, alone, launcher, settings, rounding
):
    """Those of submitit have two processes each."""
    sweep, teacher = runs / "sweep", only(runs / "teacher_smoke")
    jobs = ["teacher=checkpoint", f"teacher.path={teacher},{runs}/nowhere,{teacher}", f"hydra.sweep.dir={sweep}"]
    answer = train(runs, "-m", *FAST, *settings, *jobs, f"launcher={launcher}")
    assert answer.code == 2, answer.said
    assert "decm: 1 of 3 jobs failed. job 1: " in answer.err
    assert "Traceback" not in answer.said
    table = (sweep / "sweep.md").read_text()
    assert f"- job 1 (teacher.path={runs}/nowhere): " in table
    assert table.count("does not exist") == 1
    finished = ["0", "2"]
    for job in finished:
        for who in ("teacher", "student"):
            assert results(sweep / job)[who] == pytest.approx(alone[who], rel=rounding, abs=0)
    pids = {json.loads((sweep / job / ".lock").read_text())["pid"] for job in finished}
    assert len(pids | {os.getpid()}) == 3
    if settings == OFFLINE:
        assert_one_wandb_run_a_job(sweep, finished)
    wait_for(lambda: not processes([runs]), 30)


def far(folder, step=20):
    def reached():
        try:
            return max(metrics(folder), default=-1) >= step
        except (FileNotFoundError, KeyError, ValueError):
            return False

    return reached


@pytest.fixture
def started(runs):
    """Starts `decm train` of the tiny settings as a process of its own; nothing of it is left after the test."""
    begun = []

    def start(*overrides):
        arguments = ["train", *TINY, f"runs={runs}", *overrides]
        begun.append(decm_beside(*arguments, own_group=True, **{MARK: str(runs)}))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
    for pid in marked(runs):
        os.kill(pid, signal.SIGKILL)


def marked(runs):
    """The processes that were started by `started`, and all that those have started."""
    return [pid for pid, facts in processes([]).items() if facts.get(MARK) == str(runs)]


@pytest.mark.parametrize(
    ("number", "code", "seeds"), [(signal.SIGTERM, 75, [0, 1]), (signal.SIGKILL, -signal.SIGKILL, [0])]
)
def test_a_sweep_that_is_ended_in_a_job_of_two_processes_saves_it_and_goes_on(runs, started, number, code, seeds):
    """Also where the sweep alone is killed: its job learns of it by the system. No other job is begun before."""
    sweep = runs / "sweep"
    settings = [*LONG, *TWO, f"hydra.sweep.dir={sweep}"]
    process = started("-m", "seed=0,1", *settings)
    wait_for(far(sweep / "0"), PATIENCE)
    os.kill(process.pid, number)
    answer = process.answer(PATIENCE)
    assert answer.code == code, answer.said
    wait_for(lambda: not marked(runs), PATIENCE)
    assert not (sweep / "1").exists()
    (saved,) = (path.name for path in (sweep / "0" / "checkpoints").glob("step_*"))
    assert int(saved.removeprefix("step_").removesuffix(".ckpt")) >= 20
    answer = train(runs, "-m", f"seed={','.join(map(str, seeds))}", *settings)
    assert answer.code == 0, answer.said
    assert "All jobs are finished." in (sweep / "sweep.md").read_text()
    assert sorted(path.name for path in sweep.iterdir() if path.name.isdecimal()) == list(map(str, seeds))
    for seed in seeds:
        assert results(sweep / str(seed))["seed"] == seed
        assert sorted(metrics(sweep / str(seed))) == list(range(60))


@pytest.mark.parametrize(
    ("number", "send", "words"),
    [
        (signal.SIGINT, os.killpg, ["launcher=joblib"]),
        (signal.SIGINT, os.killpg, ["launcher=slurm_local"]),
        (signal.SIGTERM, os.kill, ["launcher=joblib", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4"]),
    ],
    ids=["joblib, Ctrl-C", "submitit, Ctrl-C", "study, SIGTERM"],
)
def test_a_sweep_that_is_stopped_saves_each_job_and_ends_as_a_run_does(runs, started, number, send, words):
    """Ctrl-C in a terminal is a signal to all processes of the group."""
    sweep = runs / "sweep"
    long = ["max_steps=2000", "trainer.checkpoint_every=1000", f"hydra.sweep.dir={sweep}"]
    process = started("-m", "seed=0,1,2", "network.hidden_size=48", *long, *words)
    wait_for(lambda: far(sweep / "0", 5)() and far(sweep / "1", 5)(), PATIENCE)
    send(process.pid, number)
    code, said = process.wait(PATIENCE), process.said()
    assert code == 75, said
    assert f"stopped by {number.name}" in said
    assert "Traceback" not in said
    assert all(list((sweep / job / "checkpoints").glob("step_*")) for job in ("0", "1"))
    wait_for(lambda: not marked(runs), PATIENCE)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder of commands that stand for SLURM's."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    slurm.install(folder)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_under_slurm_a_jobs_tasks_are_its_processes_and_a_preempted_one_goes_on(runs, started, cluster):
    """With what stands for SLURM here; submitit, its files and its signal are the real ones."""
    sweep = runs / "sweep"
    process = started(
        "-m",
        "seed=0,1",
        *LONG,
        *TWO,
        *OFFLINE,
        "launcher=slurm",
        "trainer.devices=2",
        f"hydra.sweep.dir={sweep}",
        "hydra.launcher.gpus_per_node=null",
        "hydra.launcher.partition=long",
        "hydra.launcher.account=me",
        "hydra.launcher.timeout_min=600",
    )
    wait_for(far(sweep / "0"), PATIENCE)
    tasks = {
        pid: facts
        for pid, facts in processes(["submitit.core._submit", sweep]).items()
        if facts.get("SLURM_ARRAY_TASK_ID") == "0" and "SLURM_PROCID" in facts
    }
    assert {facts["SLURM_PROCID"] for facts in tasks.values()} == {"0", "1"}
    for pid in tasks:
        os.kill(pid, signal.SIGUSR2)
    code, said = process.wait(PATIENCE), process.said()
    logs = "".join(path.read_text() for path in sweep.glob(".submitit/**/*_0_log.*"))
    assert code == 0, said + logs
    assert f"Continuing {sweep / '0'} at step" in logs
    assert logs.count("Requeued job") == 1
    assert [results(sweep / job)["seed"] for job in ("0", "1")] == [0, 1]
    assert sorted(metrics(sweep / "0")) == list(range(60))
    first, second = wandb_runs(sweep / "0"), wandb_runs(sweep / "1")
    assert (len(first), len(set(first)), len(second)) == (2, 1, 1)  # the one that went on has a folder for each start
    (options,) = [json.loads(path.read_text()) for path in cluster.glob("*.json")]
    wanted = {"nodes": "1", "ntasks-per-node": "2", "partition": "long", "account": "me", "time": "600"}
    assert wanted.items() <= options.items()
    assert options["signal"] == "USR2@120"
    assert "gpus-per-node" not in options


def test_a_killed_sweep_of_joblib_leaves_nobody_behind_and_saves_its_jobs(runs, started):
    sweep = runs / "sweep"
    settings = [*LONG, f"hydra.sweep.dir={sweep}"]
    process = started("-m", "seed=0,1", *settings, "launcher=joblib")
    wait_for(lambda: far(sweep / "0")() and far(sweep / "1", 2)(), PATIENCE)
    workers = [json.loads((sweep / str(number) / ".lock").read_text())["pid"] for number in (0, 1)]
    os.kill(process.pid, signal.SIGKILL)
    process.wait(PATIENCE)
    wait_for(lambda: not set(workers) & set(marked(runs)), PATIENCE)
    assert all(len(list((sweep / str(number) / "checkpoints").glob("step_*"))) == 1 for number in (0, 1))
    answer = train(runs, "-m", "seed=0", *settings)
    assert answer.code == 0, answer.said
    assert f"Continuing {sweep / '0'} at step" in answer.out
