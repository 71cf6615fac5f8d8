"""Latents as a data set: one order for any split, every sample once an epoch, mirrored by number, damage by name."""

import json
import logging
import os
import shutil

import numpy as np
import pytest
import torch

from decm.data.index import DamagedShardError, index_path, read_index
from decm.data.latents import LatentDataset
from decm.data.loader import IndexLoader
from decm.data.making.latent_sources import synthetic_latents
from decm.data.manifest import read_manifest
from decm.flow.randomness import uniform
from latent_sets import CLASSES, SHAPE, flip_byte, number_of, numbered_set

N = 50


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return numbered_set(tmp_path_factory.mktemp("sets") / "numbered")


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "set")


def raw(dataset, x):
    mean, std = (torch.tensor(v)[:, None, None] for v in (dataset.manifest.mean, dataset.manifest.std))
    return (x * std + mean).numpy()


def shard_of(folder, k=0):
    return folder / f"shard-{k:06d}.tar"


# order


def test_every_epoch_sees_every_sample_exactly_once_with_its_label(made):
    dataset = LatentDataset(made)
    for epoch in range(3):
        x, y = dataset.batch(5, torch.arange(epoch * N, (epoch + 1) * N))
        numbers = number_of(raw(dataset, x))
        assert sorted(numbers) == list(range(N))
        assert np.array_equal(y.numpy(), numbers % CLASSES)


def test_epochs_and_seeds_have_different_orders_and_records_are_shuffled_inside(made):
    dataset = LatentDataset(made)
    orders = [
        number_of(raw(dataset, dataset.batch(seed, torch.arange(e * N, e * N + N))[0]))
        for seed, e in ((0, 0), (0, 1), (1, 0))
    ]
    assert len({tuple(order) for order in orders}) == 3
    stored = number_of(np.concatenate([dataset.records.read(r) for r in range(len(dataset.records))]))
    places = [np.argsort(stored)[order] for order in orders]
    assert all((np.diff(place) != 1).mean() > 0.5 for place in places)


def test_the_records_were_permuted_over_the_whole_set_when_written(made):
    dataset = LatentDataset(made)
    first = number_of(dataset.records.read(0))
    assert first.max() - first.min() > 16  # not 8 neighbors


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (4, 1), (1, 4), (2, 3)])
def test_any_split_over_ranks_and_micro_batches_sees_the_same_samples(made, world_size, accumulate, flip):
    batch, steps = 24, 7  # more than three epochs, and batches across their borders
    whole = list(IndexLoader(LatentDataset(made, flip), 3, batch, steps))
    parts = [
        list(
            IndexLoader(
                LatentDataset(made, flip),
                3,
                global_batch=batch,
                steps=steps,
                rank=rank,
                world_size=world_size,
                accumulate=accumulate,
            )
        )
        for rank in range(world_size)
    ]
    assert {len(part) for part in parts} == {steps * accumulate}
    for step in range(steps):
        mine = [m for part in parts for m in part[step * accumulate : (step + 1) * accumulate]]
        for key in ("x", "y", "index"):
            assert torch.equal(torch.cat([m[key] for m in mine]), whole[step][key])


def test_a_run_that_goes_on_sees_what_an_uninterrupted_one_sees(made):
    whole = list(IndexLoader(LatentDataset(made, True), 3, 12, 10))
    resumed = IndexLoader(LatentDataset(made, True), 3, 12, 10, world_size=1, accumulate=2)
    resumed.load_state_dict({"samples": 6 * 12})
    rest = list(resumed)
    assert torch.equal(torch.cat([b["x"] for b in rest]), torch.cat([b["x"] for b in whole[6:]]))


def test_numbers_may_come_in_any_order(made):
    dataset, index = LatentDataset(made, True), torch.tensor([120, 3, 49, 50, 3, 99])
    together = dataset.batch(1, index)
    for row, i in enumerate(index):
        x, y = LatentDataset(made, True).batch(1, i[None])
        assert torch.equal(x[0], together[0][row])
        assert y[0] == together[1][row]


def test_one_sample_records_serve_too(tmp_path):
    dataset = LatentDataset(numbered_set(tmp_path / "single", record_size=1))
    x, y = dataset.batch(0, torch.arange(N))
    assert sorted(number_of(raw(dataset, x))) == list(range(N))
    assert np.array_equal(y.numpy(), number_of(raw(dataset, x)) % CLASSES)


# values


def test_states_are_normalized_per_channel(made):
    x, _ = LatentDataset(made).batch(0, torch.arange(N))
    assert x.dtype == torch.float32
    assert x.mean((0, 2, 3)).abs().max() < 1e-5
    assert (x.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_the_mirrored_copy_is_taken_where_the_uniform_number_of_the_sample_is_below_half(made):
    dataset, index = LatentDataset(made, flip=True), torch.arange(4 * N)
    values = raw(dataset, dataset.batch(7, index)[0])
    mirrored = values[:, 0, 0, 0] < 0  # the tests' mirrored copies are negatives
    assert np.array_equal(mirrored, (uniform(7, "flip", index) < 0.5).numpy())
    assert 0.3 < mirrored.mean() < 0.7
    assert (raw(dataset, LatentDataset(made).batch(7, index)[0]) > 0).all()


def test_a_record_is_read_once_for_all_its_samples(made, monkeypatch):
    dataset, reads = LatentDataset(made), []
    read = dataset.records.read
    monkeypatch.setattr(dataset.records, "read", lambda *key: reads.append(key) or read(*key))
    for first in range(0, N, 5):
        dataset.batch(0, torch.arange(first, first + 5))
    assert len(reads) == len(set(reads)) == 7


# what is wrong with a set


def test_a_missing_manifest_says_what_to_run(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"no manifest.json.*`decm latents encode"):
        LatentDataset(folder)
    with pytest.raises(ValueError, match=r"does not exist.*`decm latents encode"):
        LatentDataset(folder / "nowhere")


def test_a_set_of_another_kind_says_what_to_run(folder):
    facts = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**facts, "extra": {}}))
    with pytest.raises(ValueError, match=r"not one of latents.*`decm latents encode"):
        LatentDataset(folder)


def test_wrong_channels_say_what_to_run(made):
    manifest = read_manifest(made)
    manifest.check_fits(SHAPE, CLASSES)
    with pytest.raises(ValueError, match=r"\(2, 4, 4\).*network expects \(4, 4, 4\).*`decm latents encode`"):
        manifest.check_fits((4, 4, 4), CLASSES)


def test_a_missing_shard_is_named(folder):
    shard_of(folder, 1).unlink()
    with pytest.raises(ValueError, match=r"1 of the 3 shards .* missing: shard-000001.tar.*`decm latents`"):
        LatentDataset(folder)


def test_a_truncated_shard_is_refused_at_the_start_with_name_and_byte(folder):
    size = shard_of(folder).stat().st_size - 5000
    os.truncate(shard_of(folder), size)
    with pytest.raises(DamagedShardError, match=rf"shard-000000.tar is damaged at byte {size}"):
        LatentDataset(folder)


def test_a_shard_of_another_set_is_refused(folder, tmp_path):
    other = numbered_set(tmp_path / "other", flip=False)
    for suffix in (".tar", ".index.npz"):
        for k in range(3):
            shutil.copy(other / f"shard-{k:06d}{suffix}", folder)
    with pytest.raises(ValueError, match=r"shard-000000.tar is not the one"):
        LatentDataset(folder)


def test_a_changed_byte_stops_the_run_with_name_and_byte(folder):
    offset = int(read_index(shard_of(folder, 1)).records["latents"][2])
    flip_byte(shard_of(folder, 1), offset + 3)
    with pytest.raises(DamagedShardError, match=rf"shard-000001.tar is damaged at byte {offset}: .*record 5"):
        LatentDataset(folder).batch(0, torch.arange(N))


@pytest.mark.parametrize("damage", ["byte", "truncated"])
def test_skip_puts_the_next_intact_record_in_place_counts_it_and_says_so_once(folder, caplog, damage):
    shard, offset = shard_of(folder, 0), int(read_index(shard_of(folder, 0)).records["latents"][1])
    lost = set(number_of(LatentDataset(folder).records.read(1)))
    if damage == "byte":
        flip_byte(shard, offset)
    else:
        os.truncate(shard, offset + 10)
        lost |= set(number_of(LatentDataset(numbered_set(folder.parent / "again")).records.read(2)))
    dataset, index = LatentDataset(folder, on_corrupt="skip"), torch.arange(3 * N)
    with caplog.at_level(logging.WARNING):
        x, y = dataset.batch(0, index)
    numbers = number_of(raw(dataset, x))
    assert set(numbers) == set(range(N)) - lost
    assert np.array_equal(y.numpy(), numbers % CLASSES)
    assert dataset.skipped == (1 if damage == "byte" else 2)
    assert len(caplog.records) == 1
    assert f"shard-000000.tar is damaged at byte {offset + 10 * (damage == 'truncated')}" in caplog.text
    parts = [LatentDataset(folder, on_corrupt="skip").batch(0, part)[0] for part in index.split(10)]
    assert torch.equal(torch.cat(parts), x)  # the substitute does not depend on the split


def test_a_set_of_nothing_but_damage_is_an_error_even_with_skip(folder):
    for k in range(3):
        os.truncate(shard_of(folder, k), 100)
    with pytest.raises(ValueError, match="Every record of the set is damaged"):
        LatentDataset(folder, on_corrupt="skip").batch(0, torch.arange(4))


def test_settings_that_cannot_take_effect_are_errors(tmp_path, made):
    with pytest.raises(ValueError, match=r"data.flip=true, but .* no mirrored copies"):
        LatentDataset(numbered_set(tmp_path / "plain", flip=False), flip=True)
    with pytest.raises(ValueError, match="on_corrupt='ignore' is unknown; expected raise or skip"):
        LatentDataset(made, on_corrupt="ignore")


def test_a_synthetic_set_is_made_once_and_marked_as_such(tmp_path):
    path = str(tmp_path / "made")
    dataset = synthetic_latents(path, 20, SHAPE, CLASSES)
    assert (dataset.manifest.origin, dataset.manifest.extra["synthetic"], len(dataset)) == ("synthetic", True, 20)
    written = shard_of(tmp_path / "made").stat().st_mtime_ns
    again = synthetic_latents(path, 20, SHAPE, CLASSES)
    assert shard_of(tmp_path / "made").stat().st_mtime_ns == written
    x, y = again.batch(0, torch.arange(20))
    assert torch.equal(x, dataset.batch(0, torch.arange(20))[0])
    means = torch.stack([x[y == k].mean((0, 2, 3)) for k in range(CLASSES)])
    assert (means.std(0) > 0.1).any()  # classes differ
    with pytest.raises(ValueError, match="holds another set"):
        synthetic_latents(path, 30, SHAPE, CLASSES)
    assert index_path(shard_of(tmp_path / "made")).is_file()
