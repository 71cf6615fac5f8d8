"""Two processes evaluate as one does: `decm evaluate` under torchrun, and `decm train` in its loop and at its end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from commands import TINY, command, decm, environment, metrics, only, results

pytestmark = pytest.mark.slow
SETTINGS = ["nfe=[1,2]", "batch_size=7"]  # 60 samples: 9 batches, the last of 4
SLOWLY = """
import os, time
from pathlib import Path
from decm.evaluation import stored
Path(os.environ["PIDS"], os.environ["RANK"]).write_text(str(os.getpid()))
write = stored.write_array
stored.write_array = lambda *args: (write(*args), time.sleep(1))
"""


def torchrun(*arguments, before="", **extra):
    """`decm <arguments>` under torchrun with two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python"]
    local = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
    return subprocess.Popen(
        [*launcher, *local, *command(*arguments, before=before)],
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process, code=0):
    said, _ = process.communicate(timeout=240)
    assert (process.returncode == 0) is (code == 0), said
    return said


def evaluation(run):
    (path,) = run.glob("evaluation_*.json")
    return json.loads(path.read_text())


def assert_same_figures(a, b):
    assert list(a["student"]) == ["1", "2"]
    for key in ("student", "accuracy", "precision", "recall", "memorized", "num_samples", "samplers", "floor"):
        assert a[key] == b[key], key


@pytest.fixture(scope="module")
def alone(finished, tmp_path_factory):
    """What one process finds."""
    run = shutil.copytree(finished.folder, tmp_path_factory.mktemp("alone") / "run")
    answer = decm("evaluate", f"checkpoint={run}", *SETTINGS)
    assert answer.code == 0, answer.said
    return evaluation(run)


def test_two_processes_find_the_figures_of_one_also_after_a_kill_with_the_batches_they_have(finished, alone, tmp_path):
    """Rank 1 is killed after rank 0's second batch; torchrun ends rank 0. The other number of steps is all new."""
    run = shutil.copytree(finished.folder, tmp_path / "run")
    arguments = ["evaluate", f"checkpoint={run}", *SETTINGS]
    process = torchrun(*arguments, before=SLOWLY, PIDS=str(tmp_path))
    deadline = time.monotonic() + 120
    while not list((run / "samples_cache").rglob("000002.npy")):
        assert time.monotonic() < deadline, ended(process)
        time.sleep(0.05)
    os.kill(int((tmp_path / "1").read_text()), signal.SIGKILL)
    ended(process, code=1)
    assert list(run.glob("evaluation_*.json")) == []
    kept = {path.name for path in (run / "samples_cache").rglob("*.npy")} & {f"{k:06d}.npy" for k in (0, 2, 4, 6, 8)}
    assert 2 <= len(kept) < 5
    said = ended(torchrun(*arguments))
    assert f"1 steps: {len(kept)} of 5 batches of process 0 are there already" in said
    assert_same_figures(evaluation(run), alone)
    assert not (run / "samples_cache").exists()


@pytest.fixture(scope="module")
def pair(finished, tmp_path_factory):
    """The folder of a run that two processes trained and evaluated, its teacher at hand."""
    root = tmp_path_factory.mktemp("pair")
    finished.begin(root)
    (root / "run.py").write_text("from decm.cli.main import main\n\nmain()\n")  # what Lightning starts again
    settings = [
        *(setting for setting in TINY if setting.split("=")[0] not in ("trainer", "evaluation.every")),
        f"runs={root}",
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "evaluation.batch_size=25",
        "evaluation.every=3",
        "evaluation.every_num_samples=60",
    ]
    done = subprocess.run(
        [sys.executable, root / "run.py", "train", *settings],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return only(root / "smoke")


def test_a_run_of_two_processes_ends_with_one_table_and_no_leftovers(pair):
    assert list(results(pair)["student"]) == list(results(pair)["teacher"]) == ["1", "2"]
    assert {path.name for path in pair.glob("*.png")} == {"comparison.png", "samples_nfe1.png", "samples_nfe2.png"}
    assert not (pair / "samples_cache").exists()


def test_the_figures_of_two_processes_are_those_of_one_that_evaluates_the_checkpoint(pair):
    """At the end, and in the loop at the last step."""
    answer = decm("evaluate", f"checkpoint={pair}", "nfe=[1,2]")
    assert answer.code == 0, answer.said
    assert_same_figures(evaluation(pair), results(pair))
    logged = metrics(pair)[6]
    assert {nfe: float(logged[f"fd/{nfe}"]) for nfe in ("1", "2")} == results(pair)["student"]


def test_training_under_torchrun_is_one_run_of_two_processes(cached):
    """The second process learns from torchrun's store which folders the first one made, the teacher's too."""
    said = ended(torchrun("train", *TINY, "trainer=ddp", "trainer.threads=1", f"runs={cached}"))
    assert "Training the teacher first" in said
    run, teacher = only(cached / "smoke"), only(cached / "teacher_smoke")
    assert results(run)["student"]["1"] > 0
    assert (teacher / "results.json").is_file()
    assert len(metrics(run)) == 6
