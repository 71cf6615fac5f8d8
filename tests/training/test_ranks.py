"""Two ranks, or two micro-batches, see the samples of one process and end with its weights."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tiny import GLOBAL_BATCH, largest_gap
from training.rank import STEPS, train

HERE = Path(__file__).parent
SAME = 1e-6  # of weights in float32, from the order of the sums


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def one():
    return train()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two gloo processes has in the end: {(kind, rank): result}."""
    folder = tmp_path_factory.mktemp("ranks")
    launch("rank.py", folder)
    return {
        (kind, rank): torch.load(folder / f"{kind}_{rank}.pt") for kind in ("ours", "own_noise") for rank in range(2)
    }


def launch(script, folder):
    """Run a script of this folder as two processes, which find each other."""
    port = str(free_port())
    paths = os.pathsep.join([str(HERE.parents[1] / "src"), str(HERE.parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, HERE / script, folder, str(rank), port],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)


def gap(a, b):
    return max(largest_gap(a[part], b[part]) for part in ("student", "ema"))


def assert_same_samples(one, seen):
    """Data, noise, times and labels of every sample of the run, bitwise."""
    assert seen.keys() == one["seen"].keys() == set(range(GLOBAL_BATCH * STEPS))
    assert all(torch.equal(seen[i], one["seen"][i]) for i in seen)


@pytest.mark.slow
def test_two_ranks_share_each_optimizer_steps_samples_without_overlap(one, ranks):
    first, second = ranks["ours", 0], ranks["ours", 1]
    for (step, whole), (at, left), (also_at, right) in zip(one["steps"], first["steps"], second["steps"], strict=True):
        assert step == at == also_at
        assert left + right == whole
    assert_same_samples(one, first["seen"] | second["seen"])


@pytest.mark.slow
def test_two_ranks_end_with_the_weights_of_one_process(one, ranks):
    assert gap(ranks["ours", 0], ranks["ours", 1]) == 0
    assert gap(ranks["ours", 0], one) < SAME


@pytest.mark.slow
def test_noise_drawn_by_each_rank_for_itself_ends_elsewhere(one, ranks):
    """The negative control: ranks still agree with each other, but not with one process."""
    assert gap(ranks["own_noise", 0], ranks["own_noise", 1]) == 0
    assert gap(ranks["own_noise", 0], one) > 300 * SAME


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_see_the_same_samples_and_end_with_the_same_weights(one, accumulate):
    cut = train(accumulate_grad_batches=accumulate)
    assert_same_samples(one, cut["seen"])
    assert [step for step, _ in cut["steps"]] == [step for step in range(STEPS) for _ in range(accumulate)]
    assert gap(cut, one) < SAME


def test_noise_drawn_by_each_micro_batch_for_itself_ends_elsewhere(one):
    assert gap(train("own_noise", accumulate_grad_batches=2), one) > 300 * SAME


def test_training_is_reproducible_bitwise(one):
    assert gap(train(), one) == 0
