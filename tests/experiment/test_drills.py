"""Drills through the command line: NaN, ranks that die or hang, real signals, a job that is put back in line."""

import json
import os
import signal

import pytest

from commands import TINY, metrics, only, results, train
from decm.checkpoints.folder import name_of
from forked import decm_beside
from resuming import processes, wait_for

pytestmark = pytest.mark.slow
PREEMPTED = 75
LONG, TWO = ["max_steps=60"], ["trainer=ddp", "trainer.threads=1"]


def started(runs, *overrides):
    """`decm train` of the tiny settings as a process of its own."""
    return decm_beside("train", *TINY, f"runs={runs}", *overrides, GLOO_SOCKET_IFNAME="lo")


def ended(process):
    """(exit code, what it said)."""
    answer = process.answer()
    return answer.code, answer.said


def last_step(runs):
    """The last step in metrics.csv; -1 where there is none yet."""
    try:
        return max(metrics(only(runs / "smoke")), default=-1)
    except (FileNotFoundError, KeyError, ValueError):
        return -1


@pytest.fixture(scope="module")
def whole(finished, tmp_path_factory):
    """The run of 60 steps that nothing disturbed."""
    root = tmp_path_factory.mktemp("whole")
    finished.begin(root)
    answer = train(root, *LONG)
    assert answer.code == 0, answer.said
    return only(root / "smoke")


def assert_same_figures(folder, whole):
    assert metrics(folder) == metrics(whole)
    assert results(folder)["student"] == results(whole)["student"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT], ids=lambda s: s.name)
def test_a_signal_saves_once_at_the_end_of_the_step_and_the_run_goes_on_from_there(runs, whole, number):
    process = started(runs, *LONG, "resume=auto", "trainer.checkpoint_every=1000")
    wait_for(lambda: last_step(runs) >= 20)
    process.send_signal(number)
    code, said = ended(process)
    assert code == PREEMPTED, said
    assert f"asked by {number.name}; continue with resume=auto" in said
    assert "Traceback" not in said
    answer = train(runs, *LONG, "resume=auto")
    assert answer.code == 0, answer.said
    assert "Continuing" in answer.out
    assert_same_figures(only(runs / "smoke"), whole)


def test_a_stop_file_does_the_same_and_wandb_goes_on_in_the_same_run(runs, whole):
    offline = ["logger=wandb", "logger.mode=offline"]
    process = started(runs, *LONG, *offline)
    wait_for(lambda: last_step(runs) >= 20)
    (only(runs / "smoke") / "STOP").touch()
    code, said = ended(process)
    assert code == PREEMPTED, said
    assert not (only(runs / "smoke") / "STOP").exists()
    code, said = ended(started(runs, *LONG, *offline, "resume=auto"))
    assert code == 0, said
    run = only(runs / "smoke")
    assert_same_figures(run, whole)
    folders = [path.name for path in (run / "wandb").glob("offline-run-*")]
    assert len(folders) == 2
    assert {name.rsplit("-", 1)[1] for name in folders} == {(run / "wandb_id").read_text()}


def test_a_signal_to_the_second_of_two_ranks_stops_both(runs):
    process = started(runs, "max_steps=200", *TWO)
    wait_for(lambda: last_step(runs) >= 20)
    (second,) = [pid for pid, facts in processes([runs]).items() if facts.get("LOCAL_RANK") == "1"]
    os.kill(second, signal.SIGTERM)
    code, said = ended(process)
    assert code == PREEMPTED, said
    assert "asked by another rank" in said
    wait_for(lambda: not processes([runs]), 30)


def test_a_nan_on_one_rank_skips_the_step_on_both(runs):
    code, said = ended(started(runs, *TWO, "faults.nan_at_step=2"))
    assert code == 0, said
    assert "Step 2 is skipped" in said
    files = sorted(path.name for path in (only(runs / "smoke") / "incidents").iterdir())
    assert files == ["step_00000002_seed_0_rank_0.json", "step_00000002_seed_0_rank_1.json"]
    seen = [json.loads((only(runs / "smoke") / "incidents" / name).read_text()) for name in files]
    assert [facts["data_is_finite"] for facts in seen] == [True, False]
    assert metrics(only(runs / "smoke"))[2]["guard/skipped"] == "1.0"


def test_bad_steps_in_a_row_send_the_run_back_with_other_data_and_it_recovers(runs):
    answer = train(runs, "max_steps=12", "guard.patience=3", "faults.nan_at_step=5", "faults.nan_steps=4")
    assert answer.code == 0, answer.said
    assert "3 steps in a row were not finite, up to step 7: back to" in answer.out
    assert len((only(runs / "smoke") / "rollbacks.jsonl").read_text().splitlines()) == 1
    assert results(only(runs / "smoke"))["student"]["1"] > 0


def test_a_run_that_stays_bad_gives_up_and_names_the_file(runs):
    settings = ["max_steps=12", "guard.patience=2", "guard.rollbacks=2", "faults.nan_at_step=5", "faults.nan_steps=99"]
    answer = train(runs, *settings, "faults.nan_again=true")
    assert answer.code == 1
    assert "after 2 rollbacks" in answer.err
    assert "incidents" in answer.err
    assert not (only(runs / "smoke") / "results.json").exists()
    seeds = {json.loads(path.read_text())["seed"] for path in (only(runs / "smoke") / "incidents").iterdir()}
    assert seeds == {0, 2**32, 2 * 2**32}


@pytest.mark.parametrize("every", [1, 10])
def test_a_run_that_diverges_says_so_whatever_its_checkpoints_hold(runs, every):
    """Saved at every step, one of them has the exploded weights; within the bad steps none is saved."""
    words = ["optimizer.lr=1000", "max_steps=40", f"trainer.checkpoint_every={every}"]
    for more in ([], ["resume=auto"]):
        answer = train(runs, *words, *more)
        assert (answer.code, "Lower the learning rate" in answer.err) == (1, True), answer.said
        assert "tangent" not in answer.err
    saved = sorted(path.name for path in (only(runs / "smoke") / "checkpoints").glob("step_*"))
    assert saved == ([name_of(1)] if every == 1 else [])


def test_a_rank_that_hangs_is_named_and_the_run_ends(runs):
    code, said = ended(started(runs, *TWO, "faults.hang_rank=1", "faults.hang_at_step=3", "guard.hang_timeout=5"))
    assert code == 1, said
    assert "Behind the others: rank 1 (step 2, pid" in said
    wait_for(lambda: not processes([runs]), 20)
    answer = train(runs, "resume=auto", *TWO[1:])
    assert answer.code == 0, answer.said


def test_a_killed_drill_goes_on_without_the_fault(runs, whole):
    code, said = ended(started(runs, *LONG, "faults.kill_at_step=31"))
    assert code == -signal.SIGKILL, said
    answer = train(runs, *LONG, "resume=auto")
    assert answer.code == 0, answer.said
    assert_same_figures(only(runs / "smoke"), whole)


def test_a_checkpoint_cut_in_half_is_named_and_the_one_before_it_is_used(runs, whole):
    code, said = ended(started(runs, *LONG, "faults.truncate_checkpoint=30", "faults.kill_at_step=31"))
    assert code == -signal.SIGKILL, said
    answer = train(runs, *LONG, "resume=auto")
    assert answer.code == 0, answer.said
    assert "step_00000030.ckpt" in answer.said
    assert "at step 28 of 60" in answer.out
    assert_same_figures(only(runs / "smoke"), whole)


def test_faults_in_a_long_run_are_refused_unless_forced(runs):
    answer = train(runs, "max_steps=1001", "faults.kill_at_step=5")
    assert answer.code == 2
    assert "faults.force=true" in answer.err


def test_a_job_that_submitit_takes_off_its_machine_is_put_back_in_line_and_ends_alike(runs, whole):
    """Hydra's launcher with submitit's local executor, and the signal that SLURM sends before a job's time is up."""
    sweep = runs / "sweep"
    local = ["-m", "launcher=slurm_local", f"hydra.sweep.dir={sweep}"]
    process = started(runs, *LONG, *local)
    folder = sweep / "0"

    def far():
        try:
            return max(metrics(folder), default=-1) >= 20
        except (FileNotFoundError, KeyError, ValueError):
            return False

    wait_for(far)
    jobs = [pid for pid, facts in processes(["submitit.core._submit"]).items() if str(runs) in json.dumps(facts)]
    for pid in jobs:
        os.kill(pid, signal.SIGUSR2)
    code, said = ended(process)
    logs = "".join(path.read_text() for path in sweep.rglob("*.out"))
    assert code == 0, said + logs
    assert "asked by SIGUSR2" in logs
    assert "Continuing" in logs
    assert_same_figures(folder, whole)
