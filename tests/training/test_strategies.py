"""DDP and FSDP2 on two real ranks, compiled, checkpointed, in bfloat16: the numbers of one process."""

from pathlib import Path

import pytest
import torch

from decm.checkpoints.files import read_file
from tiny import largest_gap
from training.processes import run_ranks
from training.strategy_rank import STEPS, train

SCRIPT = Path(__file__).parent / "strategy_rank.py"
SAME, HALF = 1e-5, 2e-2  # relative, in float32 and in bfloat16
IN_FLOAT = ["ddp", "ddp_checkpointed", "ddp_compiled", "fsdp", "fsdp_reshard", "fsdp_checkpointed", "fsdp_compiled"]
IN_HALF = {"fsdp_bf16": "one_bf16", "fsdp_bf16_all": "one_bf16", "ddp_autocast": "one_autocast"}
CASES = [*IN_FLOAT, *IN_HALF, "ddp_unsynchronized"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two ranks leave of every case, and what then one rank alone leaves.

    First one rank fills the compiler's cache, so that two do not compile the same beside each other.
    """
    place = tmp_path_factory.mktemp("strategies")
    run_ranks(SCRIPT, tmp_path_factory.mktemp("first"), 1, "fsdp_compiled", "fsdp_bf16_all", seconds=900)
    run_ranks(SCRIPT, place, 2, *CASES, seconds=900)
    run_ranks(SCRIPT, place, 1, "one_bf16", "fsdp_resumed")
    return place


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Runs of one process, by case."""
    made = {}
    return lambda case: made.setdefault(case, train(tmp_path_factory.getbasetemp(), case))


@pytest.fixture
def left(folder, alone):
    def by_case(case, rank=0):
        path = folder / f"{case}_{rank}.pt"
        return torch.load(path) if path.is_file() else alone(case)

    return by_case


def flat(tensors):
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


def gaps(run, truth):
    """Relative errors of gradients, dF, losses and tangents, weights and averages."""
    part = {
        key: float((flat(run[key]) - flat(truth[key])).norm() / flat(truth[key]).norm())
        for key in ("gradients", "student", "ema")
    }
    part["dF"] = float((run["dF"] - truth["dF"]).norm() / truth["dF"].norm())
    pairs = [(a[key], b[key]) for a, b in zip(run["losses"], truth["losses"], strict=True) for key in b]
    part["losses"] = max(abs(a - b) / abs(b) for a, b in pairs)
    return part


@pytest.mark.parametrize("case", IN_FLOAT)
def test_two_ranks_have_the_gradients_tangents_losses_and_averages_of_one_process(left, case):
    found = gaps(left(case), left("one"))
    assert max(found.values()) < SAME, found
    assert max(gaps(left(case, 1), left(case)).values()) < SAME
    assert len(left(case)["losses"]) == STEPS


@pytest.mark.parametrize("case", IN_HALF)
def test_two_ranks_in_bfloat16_have_the_numbers_of_one_process_in_bfloat16(left, case):
    truth = left(IN_HALF[case])
    found = gaps(left(case), truth)
    assert max(found.values()) < HALF, found
    assert gaps(truth, left("one"))["dF"] > 1e-4, "half precision was in use"
    assert gaps(truth, left("one"))["gradients"] < 3 * HALF


def test_gradients_that_are_not_synchronized_are_seen(left):
    """The negative control."""
    assert gaps(left("ddp_unsynchronized"), left("one"))["gradients"] > 0.1


def test_a_derivative_never_requires_a_gradient(left):
    assert not any(left(case)["dF_has_gradient"] for case in [*IN_FLOAT, *IN_HALF, "one"])


def test_split_costs_a_forward_more_and_gives_the_same(left):
    assert max(gaps(left("one_split"), left("one")).values()) < SAME
    rows = STEPS * (8 + 2) + STEPS // 2 * 4  # with tangents: consistency, mean flow, and N2N in every other step
    assert left("one_split")["equivalents"] - left("one")["equivalents"] == rows


def test_autocast_keeps_the_gradients_of_split(left):
    """A pass without gradient leaves weights in autocast's cache that have none: the forward must come first."""
    found = gaps(left("one_autocast_split"), left("one_autocast"))
    assert found["gradients"] < HALF, found


def test_a_sharded_checkpoint_is_read_whole_by_one_process(left, folder):
    stored = read_file(folder / "fsdp" / f"step={STEPS}.ckpt")
    for part in ("student", "ema"):
        weights = {k.removeprefix(f"{part}."): v for k, v in stored["state_dict"].items() if k.startswith(f"{part}.")}
        assert largest_gap(weights, left("fsdp")[part]) == 0
    assert not any(key.startswith("teacher.") for key in stored["state_dict"])


def test_one_rank_goes_on_from_what_two_ranks_saved(left):
    """Optimizer and averages too: two more steps end where an uninterrupted run does."""
    found, truth = left("fsdp_resumed"), left("one_longer")
    for part in ("student", "ema"):
        assert (flat(found[part]) - flat(truth[part])).norm() < SAME * flat(truth[part]).norm()
    assert [set(row) for row in found["losses"]] == [set(row) for row in truth["losses"][STEPS:]]
