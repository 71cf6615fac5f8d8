"""A run folder belongs to one live process, may become closed or full, and is left as it is then."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from commands import environment, only, train
from decm.checkpoints.folder import name_of, newest_valid
from decm.runs.locks import LOCK, lock, locked, unlock
from disks import mounted
from settings.test_bad_input import assert_one_sentence, ordinary_permissions

HOLD = """
import sys, time
from pathlib import Path
from decm.runs.locks import lock
lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def holder(folder):
    """A process that has `folder`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n", process.communicate()
    return process


@pytest.fixture
def held(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    process = holder(folder)
    yield folder, process
    process.kill()
    process.communicate()


def test_a_second_process_is_told_who_has_the_folder(held):
    folder, process = held
    with pytest.raises(ValueError, match=rf"{folder} is in use by process {process.pid} on .+ since \d{{4}}-"):
        lock(folder)
    assert json.loads((folder / LOCK).read_text())["pid"] == process.pid


def test_a_killed_process_leaves_no_lock(held):
    folder, process = held
    process.kill()
    process.wait()
    with locked(folder):
        assert json.loads((folder / LOCK).read_text())["pid"] == os.getpid()
        with locked(folder):  # once more in the same process: its teacher's stage, say
            pass
        second = subprocess.run([sys.executable, "-c", HOLD, folder], env=environment(), capture_output=True, text=True)
        assert second.returncode == 1
        assert f"in use by process {os.getpid()}" in second.stderr
    holder(folder).kill()


def test_other_ranks_of_a_run_take_no_lock(held, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        with monkeypatch.context() as rank:
            rank.setenv(name, "1")
            lock(held[0])
    unlock(held[0])


def test_a_run_in_use_is_neither_written_nor_passed_over(finished, runs):
    """With resume=auto and by name; the run before it, which is unfinished too, is left alone."""
    for name in ("2020-01-01_00-00-00", "2021-01-01_00-00-00"):
        shutil.copytree(finished.folder, runs / "smoke" / name, ignore=shutil.ignore_patterns("results.json"))
    newest = runs / "smoke" / "2021-01-01_00-00-00"
    process = holder(newest)
    try:
        before = {path: path.stat().st_mtime_ns for path in newest.rglob("*")}
        for how in ("auto", newest):
            answer = train(runs, f"resume={how}")
            assert_one_sentence(answer, str(newest), f"in use by process {process.pid}", "Wait for that process")
        assert {path: path.stat().st_mtime_ns for path in newest.rglob("*")} == before
        assert len(list((runs / "smoke").iterdir())) == 2
    finally:
        process.kill()
        process.communicate()
    answer = train(runs, "resume=auto")
    assert answer.code == 0, answer.said
    assert f"Continuing {newest} at step 6 of 6" in answer.out
    assert (newest / "results.json").is_file()


def test_a_run_lets_go_of_its_folder_at_its_end(runs):
    assert train(runs, "max_steps=2").code == 0
    holder(only(runs / "smoke")).kill()


@pytest.mark.slow
def test_a_run_folder_that_cannot_be_written_any_more_is_told_and_left_as_it_is(finished, runs):
    folder = shutil.copytree(finished.folder, runs / "smoke" / "a", ignore=shutil.ignore_patterns("results.json", LOCK))
    folder.chmod(0o555)
    with ordinary_permissions():
        answer = train(runs, "resume=auto")
    folder.chmod(0o755)
    assert_one_sentence(answer, str(folder), "cannot be written", "Permission denied", "Set runs=")
    assert not (folder / LOCK).exists()
    assert train(runs, "resume=auto").code == 0


def test_checkpoints_that_cannot_be_written_are_told_and_nothing_is_lost(finished, runs):
    folder = shutil.copytree(finished.folder, runs / "smoke" / "a", symlinks=True)
    (folder / "results.json").unlink()
    (folder / "checkpoints" / name_of(6)).unlink()
    (folder / "checkpoints").chmod(0o555)
    with ordinary_permissions():
        answer = train(runs, "resume=auto")
    (folder / "checkpoints").chmod(0o755)
    assert_one_sentence(answer, "cannot be written: Permission denied", f"Make {folder / 'checkpoints'} writable")
    assert newest_valid(folder / "checkpoints", say=pytest.fail) == folder / "checkpoints" / name_of(4)


@pytest.mark.slow
def test_a_disk_that_fills_up_stops_the_run_which_goes_on_when_there_is_room(finished, tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    with mounted(place, 16):
        finished.begin(place)
        free = shutil.disk_usage(place).free
        size = (finished.folder / "checkpoints" / name_of(6)).stat().st_size
        (place / "filler").write_bytes(bytes(free - 2 * size - size // 2))
        answer = train(place, "trainer.keep=9")
        assert_one_sentence(
            answer,
            f"{name_of(6)} cannot be written: the disk is full",
            "bytes are free",
            "are needed",
            f"The one before it stays: {only(place / 'smoke') / 'checkpoints' / name_of(4)}",
            "Free some space",
        )
        (place / "filler").unlink()
        answer = train(place, "trainer.keep=9", "resume=auto")
        assert answer.code == 0, answer.said
        assert "at step 4 of 6" in answer.out
