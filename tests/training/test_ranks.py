"""Two or four ranks, or micro-batches, see the samples of one process and end with its weights."""

from pathlib import Path

import pytest
import torch

from tiny import GLOBAL_BATCH, largest_gap
from training.processes import run_ranks
from training.rank import HALF, STEPS, latent_set, train

HERE = Path(__file__).parent
SAME = 1e-6  # of weights in float32, from the order of the sums
CURVE = 1e-4  # relative, of losses and tangent norms


KINDS = ("ours", "latents", "resumed", "own_noise")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a set of latents, and the checkpoint of a process that trained half of the steps."""
    folder = tmp_path_factory.mktemp("ranks")
    latent_set(folder)
    train("ours", folder, HALF)
    return folder


@pytest.fixture(scope="module")
def one():
    return train()


@pytest.fixture(scope="module")
def on_latents(folder):
    return train("latents", folder)


@pytest.fixture(scope="module", params=[2, 4])
def ranks(folder, request):
    """What each of several gloo processes has in the end: {kind: [result of each rank]}."""
    world = request.param
    run_ranks(HERE / "rank.py", folder, world, *KINDS)
    return {kind: [torch.load(folder / f"{kind}_{rank}.pt") for rank in range(world)] for kind in KINDS}


def gap(a, b):
    return max(largest_gap(a[part], b[part]) for part in ("student", "ema"))


def together(ranks):
    """The samples that all ranks saw."""
    return {i: sample for rank in ranks for i, sample in rank["seen"].items()}


def assert_same_samples(one, seen):
    """Data, noise, times and labels of every sample of the run, bitwise."""
    assert seen.keys() == one["seen"].keys() == set(range(GLOBAL_BATCH * STEPS))
    assert all(torch.equal(seen[i], one["seen"][i]) for i in seen)


def assert_same_curve(ranks, one):
    """The losses and tangent norms of every step, on every rank."""
    for rank in ranks:
        assert len(rank["losses"]) == len(one) > 0
        for found, expected in zip(rank["losses"], one, strict=True):
            assert found == pytest.approx(expected, rel=CURVE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ours", "latents"])
def test_ranks_share_each_optimizer_steps_samples_without_overlap(one, on_latents, ranks, kind):
    whole = one if kind == "ours" else on_latents
    for (step, samples), *parts in zip(whole["steps"], *(rank["steps"] for rank in ranks[kind]), strict=True):
        assert {at for at, _ in parts} == {step}
        assert [i for _, part in parts for i in part] == samples
    assert_same_samples(whole, together(ranks[kind]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ours", "latents"])
def test_ranks_have_the_loss_curve_and_the_weights_of_one_process(one, on_latents, ranks, kind):
    whole = one if kind == "ours" else on_latents
    assert_same_curve(ranks[kind], whole["losses"])
    assert all(gap(ranks[kind][0], rank) == 0 for rank in ranks[kind])
    assert gap(ranks[kind][0], whole) < SAME


@pytest.mark.slow
def test_another_number_of_ranks_goes_on_at_the_same_sample(one, ranks):
    """From the checkpoint of one process, to the end that it would have had."""
    seen, first = together(ranks["resumed"]), GLOBAL_BATCH * HALF
    assert sorted(seen) == list(range(first, GLOBAL_BATCH * STEPS))
    assert all(torch.equal(sample, one["seen"][i]) for i, sample in seen.items())
    assert_same_curve(ranks["resumed"], one["losses"][HALF:])
    assert gap(ranks["resumed"][0], one) < SAME


@pytest.mark.slow
def test_noise_drawn_by_each_rank_for_itself_ends_elsewhere(one, ranks):
    """The negative control: ranks still agree with each other, but not with one process."""
    assert all(gap(ranks["own_noise"][0], rank) == 0 for rank in ranks["own_noise"])
    assert gap(ranks["own_noise"][0], one) > 300 * SAME


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
