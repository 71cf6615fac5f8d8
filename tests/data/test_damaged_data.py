"""Shards that break while a real process trains on them: told by name, or left out and counted; nothing is lost.

The damage is the operating system's: bytes written over, a file cut off, a file removed.
"""

import contextlib
import os
import shutil
import signal
import time
from dataclasses import astuple, dataclass
from pathlib import Path

import pytest
import torch

from commands import decm, in_a_process, metrics, only
from decm.data.index import read_index
from forked import decm_beside
from latent_runs import SETTINGS, synthetic_set

pytestmark = pytest.mark.slow
SAID = {
    "byte": r"are not those that were written (CRC-32 differs)",
    "truncated": "it ends there, within record",
    "removed": "vanished during the run: record",
}


def damage(shards, how):
    """What the operating system does to shards, whoever has them open."""
    for shard in shards:
        if how == "truncated":
            os.truncate(shard, 1000)
        elif how == "removed":
            shard.unlink()
        else:
            with shard.open("r+b", buffering=0) as file:
                for record in read_index(shard).records:
                    for offset in (int(record["latents"]) + 5, int(record["flip"]) + 5):
                        (byte,) = os.pread(file.fileno(), 1, offset)
                        os.pwrite(file.fileno(), bytes([byte ^ 1]), offset)


@dataclass
class Place:
    """A set, its intact copy, and a folder of runs in which the reference statistics are at hand."""

    folder: Path
    intact: Path
    runs: Path

    @property
    def settings(self):
        return [*SETTINGS, f"data.path={self.folder}", f"runs={self.runs}"]

    @property
    def run(self):
        return only(self.runs / "decm_imagenet")

    def restore(self):
        shutil.copytree(self.intact, self.folder, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: (its place, its metrics, its last checkpoint)."""
    root = tmp_path_factory.mktemp("whole")
    place = Place(synthetic_set(root / "set"), root / "set", root / "runs")
    answer = decm("train", *place.settings)
    assert answer.code == 0, answer.said
    return place, metrics(place.run), torch.load(place.run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture
def place(whole, tmp_path):
    folder = shutil.copytree(whole[0].folder, tmp_path / "set")
    shutil.copytree(whole[0].runs / "cache", tmp_path / "runs" / "cache")
    return Place(folder, whole[0].folder, tmp_path / "runs")


@contextlib.contextmanager
def stopped_at_its_first_checkpoint(place, *overrides):
    """A process that trains, held still (SIGSTOP) once there is a checkpoint; afterwards it goes on."""
    process = decm_beside("train", *place.settings, *overrides)
    limit = time.monotonic() + 180
    while not list(place.runs.glob("*/*/checkpoints/last.ckpt")):
        assert process.poll() is None, process.said()
        assert time.monotonic() < limit
        time.sleep(0.002)
    process.send_signal(signal.SIGSTOP)
    try:
        yield process
        process.send_signal(signal.SIGCONT)
        process.wait()
    finally:
        process.kill()


@pytest.mark.parametrize("how", ["byte", "truncated", "removed"])
def test_damage_during_the_run_stops_it_by_name_and_the_run_goes_on_once_it_is_mended(whole, place, how):
    with stopped_at_its_first_checkpoint(place) as process:
        damage(sorted(place.folder.glob("*.tar")), how)
    code, _, said = astuple(process.answer())
    assert code == 2, said
    (line,) = [line for line in said.splitlines() if line.startswith("decm: ")]
    assert [
        words for words in (f"Shard {place.folder}/shard-0", "byte", SAID[how], "resume=auto") if words not in line
    ] == []
    assert "Traceback" not in said
    place.restore()
    answer = in_a_process("train", *place.settings, "resume=auto")
    assert answer.code == 0, answer.said
    assert "Continuing" in answer.out
    assert metrics(place.run) == whole[1]
    state = torch.load(place.run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(state[name], value) for name, value in whole[2].items())


@pytest.mark.parametrize("how", ["byte", "removed"])
def test_damage_during_the_run_is_left_out_counted_and_logged_where_asked(whole, place, how):
    with stopped_at_its_first_checkpoint(place, "data.on_corrupt=skip") as process:
        damage(sorted(place.folder.glob("*.tar"))[::2], how)
    code, out, said = astuple(process.answer())
    assert code == 0, said
    skipped = float(metrics(place.run)[40]["data/skipped"])
    assert 1 <= skipped <= 16
    assert f"{skipped:.0f} damaged records were met and left out" in out
    warnings = [line for line in said.splitlines() if "Leaving its damaged records out" in line]
    assert 1 <= len(warnings) <= 8
    assert all(SAID[how] in line for line in warnings)
    assert len(set(warnings)) == len(warnings)
    ours = metrics(place.run)
    assert ours.keys() - {40} == whole[1].keys()
    assert ours[1] == whole[1][1]
    assert ours[39]["loss/instantaneous"] != whole[1][39]["loss/instantaneous"]


def test_a_streamed_run_trains_and_its_vanished_shard_is_told_by_name(whole, place):
    for index in place.folder.glob("*.npz"):
        index.unlink()
    with stopped_at_its_first_checkpoint(place, "data=latents_stream") as process:
        damage(sorted(place.folder.glob("*.tar")), "removed")
    assert process.wait() == 2, process.said()
    assert "cannot be read beyond its sample 0" in process.answer().err
    place.restore()
    answer = in_a_process("train", *place.settings, "data=latents_stream", "resume=auto")
    assert answer.code == 0, answer.said
    assert "is streamed: the order of its samples depends on the number of ranks (now 1)" in answer.out
    assert list(metrics(place.run)) == list(range(40))


def test_a_batch_that_does_not_divide_among_two_devices_is_told_before_a_step(place):
    answer = in_a_process("train", *place.settings, "trainer=ddp", "trainer.accelerator=cpu", "batch_size=7")
    assert answer.code == 2, answer.said
    assert "batch_size=7" in answer.err
    assert "does not divide into 2 devices x 1 micro-batches. Choose a multiple of 2." in answer.err
    assert "Traceback" not in answer.said


def test_two_processes_train_on_a_stream(place):
    """What they see is tests/data/test_stream.py's; here they end together, and say on what the order depends."""
    settings = [*place.settings, "trainer=ddp", "trainer.accelerator=cpu", "data=latents_stream", "max_steps=36"]
    answer = in_a_process("train", *settings)
    assert answer.code == 0, answer.said
    assert answer.out.count("depends on the number of ranks (now 2)") == 1
    assert list(metrics(place.run)) == list(range(36))  # more than an epoch of 32
