"""kill -9 at any moment, also while a checkpoint is written: nothing is lost, and the end is bitwise the same."""

import json
import os
import random
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from decm.checkpoints.files import read_file
from decm.checkpoints.folder import checkpoints, newest_valid, step_of
from forked import start
from resuming import assert_same
from training.processes import free_port
from training.resume_rank import train
from training.save_loop import save_for_ever

STEPS, SAVE_KILLS = 60, 20
KILLS = int(os.environ.get("DECM_KILLS", "4"))  # lives of a run; docs/reliability.md has the figures of 10
pytestmark = pytest.mark.slow


def start_ranks(folder, micro, world):
    port = free_port()
    return [start(train, folder, STEPS, micro, rank, world, port) for rank in range(world)]


def ended(processes, seconds=240):
    for process in processes:
        process.join(seconds)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def kill(processes):
    for process in processes:
        process.kill()
    for process in processes:
        process.join()
    assert {process.exitcode for process in processes} == {-signal.SIGKILL}


def newest(folder):
    return max((step_of(path) for path in checkpoints(folder)), default=0)


def wait_beyond(step, folder, processes):
    """Until a newer checkpoint than `step` is there."""
    deadline = time.monotonic() + 120
    while newest(folder / "checkpoints") <= step:
        assert time.monotonic() < deadline
        assert all(process.is_alive() for process in processes)
        time.sleep(0.002)


def log(folder, rank):
    """{line's (step, samples): the rest} of all the lives of a run; what is done again must come out the same."""
    found = {}
    for text in (folder / f"log_{rank}.jsonl").read_text().splitlines():
        try:
            step, index, *rest = json.loads(text)
        except ValueError:  # the line that was being written
            continue
        key = (step, tuple(index))
        assert found.setdefault(key, rest) == rest, key
    return found


@pytest.mark.parametrize(("world", "micro"), [(1, 1), (1, 2), (2, 2)])
def test_a_run_that_is_killed_again_and_again_ends_bitwise_like_the_whole_one(tmp_path, world, micro):
    """Student, EMA, averages, optimizer, schedule, samples, plans and losses; with micro-batches and on two ranks."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    ended(start_ranks(whole, micro, world))
    draw, within, lives = random.Random(10 * world + micro), 0, []
    for _ in range(KILLS):
        processes = start_ranks(broken, micro, world)
        try:
            wait_beyond(newest(broken / "checkpoints"), broken, processes)
            time.sleep(draw.uniform(0, 0.3))
        finally:
            kill(processes)
        within += bool(list((broken / "checkpoints").glob("*.part")))
        lives.append(newest(broken / "checkpoints"))
        if lives[-1] > STEPS - 12:
            break
    assert lives == sorted(set(lives)), "each life came further"
    assert len(lives) > 2
    ended(start_ranks(broken, micro, world))
    print(f"{len(lives)} kills at steps {lives}, {within} within a save")
    for rank in range(world):
        assert_same(torch.load(broken / f"end_{rank}.pt"), torch.load(whole / f"end_{rank}.pt"))
        assert log(broken, rank) == log(whole, rank)
    for path in (whole / "snapshots").iterdir():
        assert_same(load_file(broken / "snapshots" / path.name), load_file(path))
    assert {path.name for path in (broken / "checkpoints").iterdir()} == {
        f"step_{STEPS:08d}.ckpt",
        f"step_{STEPS - 1:08d}.ckpt",
        "last.ckpt",
    }


def test_a_kill_during_a_save_costs_no_more_than_that_save(tmp_path):
    folder, draw, within = tmp_path / "checkpoints", random.Random(3), 0
    folder.mkdir()
    for _ in range(SAVE_KILLS):
        before = newest(folder)
        process = start(save_for_ever, folder)
        try:
            while newest(folder) < before + 2:
                assert process.is_alive()
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.1))
            known = newest(folder)
        finally:
            kill([process])
        within += bool(list(folder.glob("*.part")))
        path = newest_valid(folder, say=pytest.fail)
        assert step_of(path) >= known
        assert os.readlink(folder / "last.ckpt") in {p.name for p in checkpoints(folder)}
        stored = read_file(path)
        assert stored["global_step"] == step_of(path)
        assert (stored["weights"] == step_of(path)).all()
    assert within > 0, "none of the kills hit a save"
