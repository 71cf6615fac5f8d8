"""Shards: what is written is read, at any record, in both layouts; damage is reported by name and byte."""

import os

import numpy as np
import pytest

from decm.data.index import DamagedShardError, index_path, read_index, scan
from decm.data.shards import ShardRecords, is_finished, write_shard
from latent_sets import SHAPE, Numbered, flip_byte, npy, write_tar

ROWS = [np.arange(0, 8), np.arange(8, 16), np.arange(16, 19)]


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "shard-000000.tar"
    write_shard(path, Numbered().records(ROWS))
    return path


def test_every_record_and_its_flipped_copy_is_read_bit_for_bit_in_any_order(shard):
    records = ShardRecords([shard])
    for record in (2, 0, 1, 0):
        x, flipped, labels = next(Numbered().records([ROWS[record]]))
        assert np.array_equal(records.read(record), x)
        assert np.array_equal(records.read(record, flipped=True), flipped)
        first = records.first[record]
        assert np.array_equal(records.labels[first : first + len(x)], labels)


def test_a_shard_is_read_by_webdataset_itself(shard):
    import webdataset

    read = list(webdataset.WebDataset(str(shard), shardshuffle=False).decode())
    assert np.array_equal(np.concatenate([record["latents.npy"] for record in read]), Numbered().latents(np.arange(19)))
    assert [len(record["labels.npy"]) for record in read] == [8, 8, 3]


def test_a_missing_index_is_made_again_and_is_the_same(shard):
    kept = index_path(shard).read_bytes()
    index_path(shard).unlink()
    records = ShardRecords([shard])
    assert np.array_equal(records.read(1), Numbered().latents(ROWS[1]))
    assert index_path(shard).read_bytes() == kept


def test_a_shard_without_index_in_a_folder_that_cannot_be_written_is_read_all_the_same(shard, monkeypatch):
    index_path(shard).unlink()
    monkeypatch.setattr("decm.data.index.ShardIndex.save", lambda self, path: (_ for _ in ()).throw(OSError("no")))
    assert np.array_equal(ShardRecords([shard]).read(2), Numbered().latents(ROWS[2]))


@pytest.mark.parametrize("label", ["cls", "label.npy"])
def test_one_sample_records_read_as_64_sample_records_do(shard, tmp_path, label):
    x, flipped, y = next(Numbered().records([np.arange(19)]))
    files = {}
    for i in range(19):
        files[f"a/{i:03d}.latent.npy"], files[f"a/{i:03d}.latent_flip.npy"] = npy(x[i]), npy(flipped[i])
        files[f"a/{i:03d}.{label}"] = b"%d" % y[i] if label == "cls" else npy(y[i])
    single, batched = ShardRecords([write_tar(tmp_path / "single.tar", files)]), ShardRecords([shard])
    for copy in (False, True):
        both = [np.concatenate([s.read(r, copy) for r in range(len(s))]) for s in (single, batched)]
        assert np.array_equal(*both)
    assert np.array_equal(single.labels, batched.labels)
    assert (len(single), len(batched)) == (19, 3)


def test_writing_again_gives_the_same_bytes(shard, tmp_path):
    write_shard(tmp_path / "again.tar", Numbered().records(ROWS))
    assert (tmp_path / "again.tar").read_bytes() == shard.read_bytes()


def test_a_shard_is_finished_only_with_its_index_and_its_very_bytes(shard):
    assert is_finished(shard)
    flip_byte(shard, 0)
    assert not is_finished(shard)
    flip_byte(shard, 0)
    assert is_finished(shard)
    index_path(shard).unlink()
    assert not is_finished(shard)


def test_nothing_appears_under_the_final_name_before_it_is_whole(tmp_path):
    def broken():
        yield next(Numbered().records(ROWS))
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_shard(tmp_path / "shard.tar", broken())
    assert [path.name for path in tmp_path.iterdir()] == ["shard.tar.part"]


# damage


def test_a_truncated_shard_is_named_with_the_byte_where_it_ends(shard):
    offset = int(read_index(shard).records["latents"][1])
    os.truncate(shard, offset + 100)
    records = ShardRecords([shard])
    assert len(records.read(0)) == 8
    with pytest.raises(DamagedShardError, match=rf"{shard.name}.*byte {offset + 100}: it ends there.*{offset}"):
        records.read(1)
    index_path(shard).unlink()
    with pytest.raises(DamagedShardError, match=rf"{shard.name}.*byte {offset - 128}"):  # the npy header's
        read_index(shard)


def test_a_tar_that_ends_between_two_records_is_noticed_without_index(shard):
    index_path(shard).unlink()
    end = int(read_index(shard).records["latents"][1]) - 128 - 512 - 1024  # the second record begins with its labels
    os.truncate(shard, end)
    with pytest.raises(DamagedShardError, match=f"byte {end}: the tar ends without"):
        scan(shard)


def test_a_broken_header_in_the_middle_is_noticed_without_index(shard):
    header = int(read_index(shard).records["latents"][1]) - 128 - 512
    index_path(shard).unlink()
    flip_byte(shard, header + 150)  # within its checksum
    with pytest.raises(DamagedShardError, match=rf"byte {header}"):
        scan(shard)


@pytest.mark.parametrize(("field", "flipped"), [("latents", False), ("flip", True)])
def test_a_changed_byte_is_named_with_its_records_offset(shard, field, flipped):
    offset = int(read_index(shard).records[field][1])
    flip_byte(shard, offset + 77)
    records = ShardRecords([shard])
    with pytest.raises(DamagedShardError, match=rf"{shard.name}.*byte {offset}.*record 1"):
        records.read(1, flipped)
    assert len(records.read(1, not flipped)) == 8  # the other copy is intact


def test_a_shard_that_vanishes_is_named(shard):
    records = ShardRecords([shard])
    shard.unlink()
    with pytest.raises(ValueError, match=rf"{shard.name} vanished"):
        records.read(0)
    with pytest.raises(ValueError, match=rf"{shard.name} is missing"):
        ShardRecords([shard])


def test_an_index_that_is_none_says_so(shard):
    index_path(shard).write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"index.npz is not a readable index.*Delete it"):
        read_index(shard)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.latents.npy": npy(np.zeros((2, *SHAPE), "float16"))}, "record '/a' of latents.npy; expected"),
        ({"a.png": b"x", "a.cls": b"1"}, "record '/a' of cls, png; expected"),
        ({"a.latent.npy": npy(np.zeros(SHAPE, "float64")), "a.cls": b"1"}, "float64.*expected one shape, of"),
        ({"a.latents.npy": npy(np.zeros((2, *SHAPE), "float16")), "a.labels.npy": npy(np.arange(3))}, "3 labels"),
        (
            {
                "a.latent.npy": npy(np.zeros(SHAPE, "float16")),
                "a.cls": b"1",
                "b.latent.npy": npy(np.zeros((1, 4, 4), "float16")),
                "b.cls": b"1",
            },
            "expected one shape",
        ),
        ({"a.latent.npy": b"no array", "a.cls": b"1"}, "latent.npy of '/a' cannot be read"),
        ({}, "empty"),
    ],
)
def test_a_tar_of_something_else_says_what_was_expected(tmp_path, files, message):
    with pytest.raises(ValueError, match=message):
        scan(write_tar(tmp_path / "other.tar", files))
