"""Previews and evaluation in the loop on two ranks are those of one process, and no rank calls a network more often."""

from pathlib import Path

import pytest
import torch

from training.loop_rank import NFES, NUM, loop
from training.processes import run_ranks

PREVIEWS = ["step_000001.png", "step_000002.png"]
ROUNDS, PREVIEW_ROUNDS, STEPS = 3, 2, 3  # of 5 and of 3 batches; network steps of NFE 1 and 2 together


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return loop(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two gloo processes has in the end."""
    folder = tmp_path_factory.mktemp("two")
    run_ranks(Path(__file__).parent / "loop_rank.py", folder, 2)
    return [torch.load(folder / f"loop_{rank}.pt") for rank in range(2)]


@pytest.mark.slow
def test_the_pictures_and_figures_of_two_ranks_are_those_of_one_process(one, ranks):
    assert sorted(one["painted"]) == sorted(ranks[0]["painted"]) == PREVIEWS
    for name, rows in one["painted"].items():
        assert list(rows) == list(ranks[0]["painted"][name]) == ["teacher, 2", "1 step", "2 steps"]
        assert all(torch.equal(samples, ranks[0]["painted"][name][title]) for title, samples in rows.items())
    assert ranks[0]["figures"] == one["figures"]
    assert [sorted(row) for row in one["figures"].values()] == [["fd/1", "fd/2"]] * 2
    assert one["figures"][1]["fd/1"] != one["figures"][1]["fd/2"]


@pytest.mark.slow
def test_only_the_first_rank_judges_paints_and_logs(ranks):
    assert [found["asked"] for found in ranks] == [2 * len(NFES), 0]
    assert ranks[1]["painted"] == {}
    assert not any(ranks[1]["figures"].values())


@pytest.mark.slow
def test_each_rank_calls_the_networks_equally_often_and_less_than_one_process(one, ranks):
    """Twice 5 batches and 3 batches, on two ranks 3 and 2; the batch that is left over is repeated and thrown away."""
    assert len(one["calls"]) == 2 * STEPS * (5 + 3)
    assert [len(found["calls"]) for found in ranks] == [2 * STEPS * (ROUNDS + PREVIEW_ROUNDS)] * 2
    assert len(ranks[0]["teacher_calls"]) == len(ranks[1]["teacher_calls"])
    assert sum(ranks[0]["calls"]) + sum(ranks[1]["calls"]) > sum(one["calls"])


@pytest.mark.slow
def test_a_network_that_is_sharded_over_the_ranks_makes_the_same_samples(ranks):
    found = ranks[0]["sharded"]
    assert len(found["whole"]) == NUM
    for name in ("split", "kept", "again"):
        assert torch.equal(found[name], found["whole"]), name
    assert set(ranks[1]["sharded"].values()) == {None}
