"""One global order of samples, cut by rank and micro-batch, with a position that is saved."""

import threading
import time

import pytest
import torch

from decm.data.loader import AHEAD, IndexLoader, micro_batch_size
from tiny import POINTS, tiny_set

SPLITS = [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (1, 4), (4, 2), (8, 1)]
BATCH, STEPS = 8, 10


def loaders(world_size, accumulate, batch=BATCH, steps=STEPS, seed=0):
    """The loaders of all ranks."""
    return [
        IndexLoader(
            tiny_set(), seed, global_batch=batch, steps=steps, rank=rank, world_size=world_size, accumulate=accumulate
        )
        for rank in range(world_size)
    ]


def global_batches(ranks, accumulate):
    """[step][sample]: what all ranks see in each optimizer step, and the states and labels that go with it."""
    streams = [list(loader) for loader in ranks]
    assert len({len(stream) for stream in streams}) == 1
    steps = [
        [stream[k + part] for stream in streams for part in range(accumulate)]
        for k in range(0, len(streams[0]), accumulate)
    ]
    return [{key: torch.cat([piece[key] for piece in step]) for key in ("x", "y", "index")} for step in steps]


def sorted_by_index(batch):
    order = batch["index"].argsort()
    return {key: value[order] for key, value in batch.items()}


@pytest.mark.parametrize(("world_size", "accumulate"), SPLITS)
def test_ranks_and_micro_batches_cut_one_global_order(world_size, accumulate):
    (one,) = loaders(1, 1)
    for whole, cut in zip(one, global_batches(loaders(world_size, accumulate), accumulate), strict=True):
        cut = sorted_by_index(cut)
        assert all(torch.equal(whole[key], cut[key]) for key in ("x", "y", "index"))


@pytest.mark.parametrize(("world_size", "accumulate"), SPLITS)
def test_each_optimizer_step_holds_the_next_samples_once(world_size, accumulate):
    batches = global_batches(loaders(world_size, accumulate), accumulate)
    assert [sorted(batch["index"].tolist()) for batch in batches] == [
        list(range(BATCH * step, BATCH * (step + 1))) for step in range(STEPS)
    ]


def test_each_epoch_is_another_permutation_of_the_set():
    """An epoch of 20 ends within a batch of 8."""
    (loader,) = loaders(1, 1)
    x = torch.cat([batch["x"] for batch in loader])
    rows = [int((tiny_set().train_x == state).flatten(1).all(1).nonzero()) for state in x]
    epochs = [rows[k : k + POINTS] for k in range(0, len(rows), POINTS)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(POINTS))] * 4
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_labels_stay_with_their_states():
    dataset = tiny_set()
    label_of = {tuple(x.flatten().tolist()): int(y) for x, y in zip(dataset.train_x, dataset.train_y, strict=True)}
    for batch in loaders(2, 1)[1]:
        for x, y in zip(batch["x"], batch["y"], strict=True):
            assert label_of[tuple(x.flatten().tolist())] == int(y)


def test_another_seed_is_another_order_of_the_same_samples():
    first, second = (torch.cat([b["x"] for b in loaders(1, 1, seed=seed)[0]])[:POINTS].flatten() for seed in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (2, 1), (4, 2), (1, 4)])
def test_a_saved_position_goes_on_with_another_world_size(world_size, accumulate):
    before = loaders(1, 2)[0]
    stream = iter(before)
    for _ in range(6):  # three optimizer steps
        next(stream)
    after = loaders(world_size, accumulate)
    for loader in after:
        loader.load_state_dict(before.state_dict())
    assert before.state_dict() == {"samples": 3 * BATCH}
    seen = [sorted(batch["index"].tolist()) for batch in global_batches(after, accumulate)]
    assert seen == [list(range(BATCH * step, BATCH * (step + 1))) for step in range(3, STEPS)]


def test_a_position_within_an_optimizer_step_is_saved_as_its_beginning():
    (loader,) = loaders(1, 4)
    stream = iter(loader)
    for _ in range(6):  # one optimizer step and a half
        next(stream)
    assert loader.state_dict() == {"samples": BATCH}


def test_a_position_of_another_batch_size_is_an_error():
    loader = IndexLoader(tiny_set(), 0, 6, STEPS)
    with pytest.raises(ValueError, match="sample 8, within an optimizer step of batch_size=6"):
        loader.load_state_dict({"samples": 8})


def test_an_iterator_made_anew_goes_on():
    (loader,) = loaders(1, 1)
    next(iter(loader))
    assert next(iter(loader))["index"].tolist() == list(range(BATCH, 2 * BATCH))


def test_length_counts_micro_batches_of_the_whole_run():
    assert [len(loader) for loader in loaders(2, 4)] == [4 * STEPS] * 2
    assert [len(list(loader)) for loader in loaders(2, 4)] == [4 * STEPS] * 2


@pytest.mark.parametrize(("batch", "world_size", "accumulate"), [(6, 4, 1), (6, 1, 4), (6, 2, 2), (0, 1, 1), (1, 2, 1)])
def test_a_batch_that_does_not_divide_is_an_error(batch, world_size, accumulate):
    with pytest.raises(ValueError, match=f"batch_size={batch} .*Choose a multiple of {world_size * accumulate}"):
        micro_batch_size(batch, world_size, accumulate)
    with pytest.raises(ValueError, match=f"batch_size={batch} "):
        loaders(world_size, accumulate, batch)


def test_a_batch_that_divides_is_cut_evenly():
    assert micro_batch_size(24, 3, 2) == 4


class Slow:
    """A set that notes what was read, by which thread, and has one batch that cannot be."""

    def __init__(self, damaged=-1):
        self.read, self.threads, self.damaged = [], set(), damaged

    def batch(self, seed, index):
        self.threads.add(threading.get_ident())
        if int(index[0]) == self.damaged:
            raise ValueError("damaged")
        self.read.append(int(index[0]))
        return index.float(), index


def wait_until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_batches_are_read_and_prepared_ahead_by_a_thread_and_the_position_is_of_those_handed_out():
    data = Slow()
    loader = IndexLoader(data, 0, 4, 8, prepare=lambda batch: {**batch, "prepared": threading.get_ident()})
    stream = iter(loader)
    first = next(stream)
    wait_until(lambda: len(data.read) == 1 + AHEAD)
    assert loader.state_dict() == {"samples": 4}
    assert data.threads == {first["prepared"]} != {threading.get_ident()}
    del stream
    assert [int(batch["index"][0]) for batch in loader] == list(range(4, 32, 4))
    assert data.read == [0, 4, 8, *range(4, 32, 4)]  # read again, handed out once


def test_a_batch_that_cannot_be_read_is_an_error_when_its_turn_comes():
    stream = iter(IndexLoader(Slow(damaged=12), 0, 4, 8))
    assert [int(next(stream)["index"][0]) for _ in range(3)] == [0, 4, 8]
    with pytest.raises(ValueError, match="damaged"):
        next(stream)
