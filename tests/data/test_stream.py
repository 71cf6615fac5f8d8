"""Latents streamed without an index: shares of the ranks, equal batches, a position that is kept, damage by name."""

import os

import numpy as np
import pytest
import torch

from decm.data.index import index_path
from decm.data.latents import LatentDataset
from decm.data.loader import IndexLoader
from decm.data.making.latent_sets import describe, finish_set, write_set
from decm.data.stream import StreamedLatents, StreamLoader
from decm.flow.randomness import uniform
from decm.protocols.images import stored_states
from latent_sets import CLASSES, Numbered, npy, number_of, numbered_plan, numbered_set, write_tar

N, SHARDS, BATCH = 48, 6, 8


@pytest.fixture
def folder(tmp_path):
    """6 shards of 2 records of 4 samples, without their indices."""
    plan = numbered_plan(N, record_size=4, shard_records=2)
    write_set(tmp_path / "set", plan, Numbered(), 0, 1, lambda samples: None)
    finish_set(tmp_path / "set", plan)
    for index in (tmp_path / "set").glob("*.npz"):
        index.unlink()
    return tmp_path / "set"


def loader(folder, steps, rank=0, world_size=1, accumulate=1, seed=0, flip=False, batch=BATCH):
    return StreamLoader(
        StreamedLatents(folder, flip),
        seed,
        global_batch=batch,
        steps=steps,
        rank=rank,
        world_size=world_size,
        accumulate=accumulate,
    )


def raw(folder, x):
    manifest = StreamedLatents(folder).manifest
    mean, std = (torch.tensor(values)[:, None, None] for values in (manifest.mean, manifest.std))
    return (x * std + mean).numpy()


def numbers(folder, batches):
    return number_of(raw(folder, torch.cat([batch["x"] for batch in batches]))).tolist()


def test_one_process_sees_every_sample_once_an_epoch_with_its_label(folder):
    batches = list(loader(folder, 3 * N // BATCH))
    seen = numbers(folder, batches)
    epochs = [seen[k : k + N] for k in range(0, 3 * N, N)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(N))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert torch.cat([batch["y"] for batch in batches]).tolist() == [number % CLASSES for number in seen]
    assert not list(folder.glob("*.npz"))


@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (3, 1), (2, 2)])
def test_ranks_see_disjoint_samples_that_together_are_the_set_in_as_many_batches(folder, world_size, accumulate):
    batch, steps = 4 * world_size * accumulate, N // (4 * world_size * accumulate)
    ranks = [list(loader(folder, steps, r, world_size, accumulate, batch=batch)) for r in range(world_size)]
    assert {len(batches) for batches in ranks} == {steps * accumulate}
    seen = [numbers(folder, batches) for batches in ranks]
    assert sorted(number for rank in seen for number in rank) == list(range(N))
    index = sorted(i for batches in ranks for batch in batches for i in batch["index"].tolist())
    assert index == list(range(N))  # noise and times are drawn by it, and do not depend on the ranks


def test_uneven_shares_are_cut_to_the_smallest_and_nobody_waits(tmp_path):
    """50 samples in shards of 24, 24 and 2: in each epoch both ranks take those of the smaller share."""
    folder = numbered_set(tmp_path / "set")
    dataset = StreamedLatents(folder)
    for epoch in range(4):
        (one, taken), (other, also) = (dataset.share(0, epoch, rank, 2) for rank in range(2))
        assert sorted(one + other) == [0, 1, 2]
        assert taken == also == min(sum(dataset.counts[k] for k in share) for share in (one, other))
    ranks = [list(loader(folder, 20, rank, 2)) for rank in range(2)]
    assert [len(batches) for batches in ranks] == [20, 20]
    first = dataset.share(0, 0, 0, 2)[1]
    seen = [numbers(folder, batches)[:first] for batches in ranks]
    assert len(set(seen[0]) | set(seen[1])) == 2 * first


@pytest.mark.parametrize("at", [1, 5, 6, 11])
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_run_that_goes_on_continues_exactly(folder, at, world_size):
    for rank in range(world_size):
        whole = list(loader(folder, 20, rank, world_size, flip=True))
        rest = loader(folder, 20, rank, world_size, flip=True)
        rest.load_state_dict({"samples": at * BATCH})
        resumed = list(rest)
        assert len(resumed) == 20 - at
        for a, b in zip(resumed, whole[at:], strict=True):
            assert all(torch.equal(a[key], b[key]) for key in ("x", "y", "index"))


def test_another_number_of_ranks_goes_on_at_the_same_count(folder):
    before = loader(folder, 20)
    for _, _ in zip(range(3), before, strict=False):
        pass
    after = loader(folder, 20, 1, 2)
    after.load_state_dict(before.state_dict())
    assert before.state_dict() == after.state_dict() == {"samples": 3 * BATCH}
    assert next(iter(after))["index"].tolist() == list(range(3 * BATCH + BATCH // 2, 4 * BATCH))


def test_shards_behind_the_position_are_not_opened(folder, monkeypatch):
    opened = []
    read = StreamedLatents.read
    monkeypatch.setattr(
        StreamedLatents, "read", lambda self, shard, order: opened.append(shard) or read(self, shard, order)
    )
    stream = loader(folder, 40)
    stream.load_state_dict({"samples": 4 * N + 2 * BATCH})
    next(iter(stream))
    shards = stream.streamed.share(0, 4, 0, 1)[0][2:]
    assert opened
    assert opened == shards[: len(opened)]  # some are read ahead


def test_the_mirrored_copy_is_taken_by_the_samples_number(folder):
    batches = list(loader(folder, 24, flip=True))
    index = torch.cat([batch["index"] for batch in batches])
    mirrored = raw(folder, torch.cat([batch["x"] for batch in batches]))[:, 0, 0, 0] < 0
    assert np.array_equal(mirrored, (uniform(0, "flip", index) < 0.5).numpy())


def test_seeds_have_different_orders_and_the_notice_says_on_what_it_depends(folder, capsys):
    orders = [tuple(numbers(folder, loader(folder, 6, seed=seed))) for seed in (0, 1)]
    assert orders[0] != orders[1]
    assert "order of its samples depends on the number of ranks (now 1)" in capsys.readouterr().out
    loader(folder, 6, 1, 2)
    assert capsys.readouterr().out == ""  # rank 0 says it


def test_a_stream_and_an_index_read_the_same_states(folder):
    streamed = torch.cat([batch["x"] for batch in loader(folder, 6)])
    indexed = torch.cat([batch["x"] for batch in IndexLoader(LatentDataset(folder), 0, BATCH, 6)])
    places = [np.argsort(number_of(raw(folder, x))) for x in (streamed, indexed)]
    assert torch.equal(streamed[places[0]], indexed[places[1]])
    first, count = stored_states(StreamedLatents(folder), num=20)
    other, _ = stored_states(LatentDataset(folder), num=20)
    assert count == 20
    assert torch.equal(torch.cat(list(first)), torch.cat(list(other)))


def test_one_sample_records_of_others_are_streamed(tmp_path):
    x, _, y = next(Numbered("float16").records([np.arange(9)]))
    for k in range(3):
        files = {}
        for i in range(3 * k, 3 * k + 3):
            files |= {f"{i}.latent.npy": npy(x[i]), f"{i}.cls": b"%d" % y[i]}
        write_tar(tmp_path / f"{k}.tar", files)
    describe(tmp_path, [f"{k}.tar" for k in range(3)], "others", CLASSES, "tests", {}).write(tmp_path)
    batches = list(loader(tmp_path, 3, batch=3))
    assert sorted(numbers(tmp_path, batches)) == list(range(9))
    assert [label for batch in batches for label in batch["y"].tolist()] == [k % 3 for k in numbers(tmp_path, batches)]


# what is wrong


def test_more_ranks_than_shards_are_refused(folder):
    with pytest.raises(ValueError, match=r"has 6 shards, too few to stream to 8 ranks"):
        loader(folder, 1, 0, 8)


def test_a_truncated_shard_is_refused_at_the_start(folder):
    path = folder / "shard-000002.tar"
    size = path.stat().st_size - 3000
    os.truncate(path, size)
    with pytest.raises(ValueError, match=rf"shard-000002.tar is damaged at byte {size}: it has {size} bytes"):
        StreamedLatents(folder)


@pytest.mark.parametrize("damage", ["truncated", "gone", "broken", "short"])
def test_damage_during_the_run_names_shard_and_sample_and_what_to_do(folder, damage):
    batches = iter(loader(folder, 6))
    next(batches)  # the first shard of 8 samples
    for path in folder.glob("*.tar"):
        if damage == "truncated":
            os.truncate(path, 2000)
        elif damage == "gone":
            path.unlink()
        elif damage == "broken":
            path.write_bytes(b"no tar" * 500)
        else:
            write_tar(path, {"0.latents.npy": npy(Numbered().latents(np.arange(2))), "0.labels.npy": npy(np.arange(2))})
    with pytest.raises(ValueError, match=r"shard-00000\d.tar cannot be read beyond its sample \d: .*resume=auto"):
        list(batches)


def test_mirrored_copies_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data.flip=true, but .* no mirrored copies"):
        StreamedLatents(numbered_set(tmp_path / "plain", flip=False), flip=True)


def test_no_index_is_made(folder):
    next(iter(loader(folder, 1)))
    assert not any(index_path(path).exists() for path in folder.glob("*.tar"))
