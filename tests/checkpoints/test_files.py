"""A checkpoint is what was written, or it is refused by name; a disk that is full costs that save alone."""

import os
import random
import shutil

import pytest
import torch

from decm.checkpoints import sealed
from decm.checkpoints.checksums import digest
from decm.checkpoints.durable import SaveError, write_text
from decm.checkpoints.files import read_file, verify, write_file
from decm.checkpoints.folder import checkpoints, name_of, newest_valid
from decm.checkpoints.sealed import DamagedError, NewerSchemaError
from decm.checkpoints.sharded import write_sharded
from decm.training.checkpoint_io import CheckpointFiles
from disks import mounted
from forked import SERVER, start
from resuming import assert_same
from training.save_loop import save_one

FLIPS = 150


def content(step=3):
    """Tensors of several types and shapes, and plain containers."""
    draw = torch.Generator().manual_seed(step)
    return {
        "global_step": step,
        "code_version": "here",
        "decm_config": {"a": [1, 2.5, None, True, "x"], "b": {}},
        "state_dict": {
            "w": torch.randn(20, 3, generator=draw),
            "half": torch.randn(7, generator=draw).bfloat16(),
            "empty": torch.zeros(0, 4),
            "flag": torch.tensor(True),
            "view": torch.arange(12).view(3, 4).t(),
        },
        "optimizer_states": [{"state": {0: {"step": torch.tensor(4.0)}}, "param_groups": [{"betas": (0.9, 0.99)}]}],
    }


def write_folder(checkpoint, path):
    write_sharded(checkpoint, path, 0, lambda: None)


BOTH = pytest.mark.parametrize("write", [write_file, write_folder])


def files(path):
    return sorted(path.iterdir()) if path.is_dir() else [path]


@BOTH
def test_what_is_read_is_what_was_written(tmp_path, write):
    path = tmp_path / name_of(3)
    for step in (1, 3):  # the second in place of the first
        write(content(step), path)
    stored = CheckpointFiles().load_checkpoint(path)
    assert_same({key: stored[key] for key in content()}, content())
    assert stored["schema_version"] == 1
    assert len(stored["checksum"]) == 64
    assert verify(path)["global_step"] == 3
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@BOTH
def test_a_flipped_byte_is_found_wherever_it_matters(tmp_path, write):
    """Between a file's parts there are bytes that mean nothing."""
    path, draw, found = tmp_path / name_of(3), random.Random(0), 0
    write(content(), path)
    for _ in range(FLIPS):
        file = draw.choice(files(path))
        whole = file.read_bytes()
        at = draw.randrange(len(whole))
        file.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << draw.randrange(8))]) + whole[at + 1 :])
        try:
            stored = read_file(path)
            assert_same({key: stored[key] for key in content()}, content())
        except (DamagedError, NewerSchemaError):
            found += 1
            with pytest.raises((DamagedError, NewerSchemaError), match=path.name):
                verify(path)
        file.write_bytes(whole)
    assert found > FLIPS // 4
    read_file(path)


@pytest.mark.parametrize("key", ["w", "half", "flag", "view"])
def test_an_edited_tensor_is_found(tmp_path, key):
    path = tmp_path / name_of(3)
    write_file(content(), path)
    stored = read_file(path)
    stored["state_dict"][key] = stored["state_dict"][key].clone().logical_not()
    torch.save(stored, path)
    with pytest.raises(DamagedError, match="its checksum is"):
        read_file(path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c.update(global_step=4),
        lambda c: c.update(global_step=3.0),
        lambda c: c["decm_config"].update(b=1),
        lambda c: c.pop("checksum"),
        lambda c: c["state_dict"].update(w=c["state_dict"]["w"].double()),
        lambda c: c["state_dict"].update(w=c["state_dict"]["w"].reshape(3, 20)),
        lambda c: c.update(schema_version="1"),
    ],
)
def test_an_edited_value_is_found(tmp_path, edit):
    path = tmp_path / name_of(3)
    write_file(content(), path)
    stored = read_file(path)
    edit(stored)
    torch.save(stored, path)
    with pytest.raises((DamagedError, NewerSchemaError), match=path.name):
        read_file(path)


@BOTH
def test_a_truncated_checkpoint_is_found(tmp_path, write):
    path = tmp_path / name_of(3)
    write(content(), path)
    for file in files(path):
        whole = file.read_bytes()
        for length in (0, 1, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:length])
            with pytest.raises(DamagedError, match=path.name):
                read_file(path)
            with pytest.raises(DamagedError, match=path.name):
                verify(path)
        file.write_bytes(whole)


def test_a_shard_that_is_missing_or_does_not_belong_is_found(tmp_path):
    path = tmp_path / name_of(3)
    write_folder(content(), path)
    (shard,) = path.glob("*.safetensors")
    shutil.copy(shard, path / "another.safetensors")
    with pytest.raises(DamagedError, match=r"another\.safetensors does not belong"):
        read_file(path)
    (path / "another.safetensors").unlink()
    shard.unlink()
    with pytest.raises(DamagedError, match="expected"):
        read_file(path)


class Foreign:
    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.mark.parametrize("thing", [Foreign(), {1, 2}, torch.nn.Linear(1, 1)])
def test_anything_but_tensors_and_plain_containers_is_neither_written_nor_read(tmp_path, monkeypatch, thing):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name_of(3)
    with pytest.raises(ValueError, match=r"/state_dict/thing is of type .*plain containers"):
        write_file({"state_dict": {"thing": thing}}, path)
    assert list(tmp_path.iterdir()) == []
    torch.save({"thing": thing, "schema_version": 1, "checksum": "0"}, path)
    with pytest.raises(DamagedError, match=path.name) as raised:
        read_file(path)
    if isinstance(thing, Foreign):
        assert "posix.mkdir, neither a tensor nor a plain container, which was not executed" in str(raised.value)
    assert not (tmp_path / "owned").exists()


def test_a_later_schema_is_refused_and_not_taken_for_damage(tmp_path, monkeypatch):
    write_file(content(), tmp_path / name_of(2))
    with monkeypatch.context() as later:
        later.setattr(sealed, "SCHEMA", 2)
        write_file(content(), tmp_path / name_of(3))
    with pytest.raises(NewerSchemaError, match=r"schema version 2; this decm reads up to 1.*here"):
        newest_valid(tmp_path)


def test_a_file_without_a_checksum_is_refused(tmp_path):
    torch.save(content(), tmp_path / "last.ckpt")
    with pytest.raises(DamagedError, match="checksum"):
        read_file(tmp_path / "last.ckpt")
    assert newest_valid(tmp_path) is None


def test_a_checksum_knows_types_order_and_nesting():
    values = [1, 1.0, True, "1", b"1", None, [1], (1,), {1: 1}, {"1": 1}, [[1]], torch.tensor(1), torch.tensor([1])]
    values += [{"a": 1, "b": 2}, {"b": 2, "a": 1}, torch.tensor(1.0), float("nan"), 0.0, -0.0, torch.zeros(2, 0)]
    assert len({digest(value) for value in values}) == len(values)
    assert digest([float("nan"), {"a": torch.ones(3)}]) == digest([float("nan"), {"a": torch.ones(3)}])


def save_in_a_process(kind, path, limit=-1):
    """What a process that saves 4 MB, and whose files may grow to `limit` bytes, ends with and says."""
    told, said = SERVER.Pipe(duplex=False)
    process = start(save_one, kind, path, limit, said)
    process.join(120)
    return process.exitcode, told.recv()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    with mounted(place, 3):
        yield place


def assert_told(said, folder, why):
    for words in (
        "SaveError",
        str(folder / name_of(4)),
        why,
        "about 4,000,000 are needed",
        "bytes are free",
        "Free some",
    ):
        assert words in said
    assert f"The one before it stays: {folder / name_of(3)}" in said
    assert newest_valid(folder, say=pytest.fail) == folder / name_of(3)
    assert [path.name for path in folder.iterdir()] == [name_of(3)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_full_disk_costs_that_save_alone(small_disk, kind):
    (write_file if kind == "file" else write_folder)(content(), small_disk / name_of(3))
    code, said = save_in_a_process(kind, small_disk / name_of(4))
    assert code == 1
    assert_told(said, small_disk, "the disk is full")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_limit_of_file_sizes_costs_that_save_alone(tmp_path, kind):
    (write_file if kind == "file" else write_folder)(content(), tmp_path / name_of(3))
    code, said = save_in_a_process(kind, tmp_path / name_of(4), 100_000)
    assert code == 1
    assert_told(said, tmp_path, "files may not grow so big")
    assert save_in_a_process(kind, tmp_path / name_of(4))[0] == 0
    assert [path.name for path in checkpoints(tmp_path)] == [name_of(4), name_of(3)]


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises((SaveError, OSError), match="file"):
        write_file(content(), tmp_path / "file" / name_of(4))


def test_a_text_is_replaced_whole(tmp_path):
    for text in ("a" * 100, "b"):
        write_text(tmp_path / "a", text)
    assert (tmp_path / "a").read_text() == "b"
    assert len(list(tmp_path.iterdir())) == 1
