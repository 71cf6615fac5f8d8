"""Checkpoints that are written beside the training: of the moment they were asked for, one at a time, no error lost."""

import threading

import pytest
import torch

from decm.checkpoints.durable import SaveError
from decm.checkpoints.files import read_file, write_file
from decm.training import checkpoint_io
from decm.training.checkpoint_io import CheckpointFiles


@pytest.fixture
def held(monkeypatch):
    """Writes wait for this event."""
    may_write = threading.Event()

    def write(checkpoint, path):
        assert may_write.wait(30)
        write_file(checkpoint, path)

    monkeypatch.setattr(checkpoint_io, "write_file", write)
    return may_write


def test_a_file_holds_what_was_there_when_it_was_asked_for(held, tmp_path):
    weights, path, done = torch.ones(3, 2).t(), tmp_path / "a.ckpt", []
    checkpoint = {"global_step": 1, "w": weights, "callbacks": {"best": [1, {"at": weights[0]}]}}
    files = CheckpointFiles()
    files.save_checkpoint(checkpoint, path, lambda: done.append(path.exists()))
    weights.fill_(2)
    checkpoint["callbacks"]["best"][1].clear()
    checkpoint["callbacks"]["best"].append("later")
    files.check()
    assert (path.exists(), done) == (False, [])
    held.set()
    files.wait()
    stored = read_file(path)
    assert torch.equal(stored["w"], torch.ones(2, 3))
    assert len(stored["callbacks"]["best"]) == 2
    assert torch.equal(stored["callbacks"]["best"][1]["at"], torch.ones(3))
    assert done == [True]


def test_the_next_save_waits_for_the_one_before(held, tmp_path):
    files, order = CheckpointFiles(), []
    files.save_checkpoint({"global_step": 1}, tmp_path / "a", lambda: order.append(1))
    second = threading.Thread(
        target=files.save_checkpoint, args=({"global_step": 2}, tmp_path / "b", lambda: order.append(2))
    )
    second.start()
    second.join(0.2)
    assert second.is_alive()
    held.set()
    second.join(30)
    files.teardown()
    assert order == [1, 2]
    assert read_file(tmp_path / "b")["global_step"] == 2


def fails(files, folder):
    """A save that cannot be written has ended."""
    (folder / "file").write_text("no folder")
    files.save_checkpoint({"global_step": 1}, folder / "file" / "a", lambda: pytest.fail("it was not written"))
    files._writing.exception(30)


@pytest.mark.parametrize(
    "ask",
    [CheckpointFiles.check, CheckpointFiles.wait, lambda files: files.save_checkpoint({"global_step": 2}, "nowhere")],
)
def test_what_a_save_raised_is_raised_once(tmp_path, ask):
    files = CheckpointFiles()
    fails(files, tmp_path)
    with pytest.raises(SaveError, match="cannot be written"):
        ask(files)
    files.check()
    files.wait()


def test_an_error_that_ends_a_run_is_not_hidden_by_that_of_a_save_which_is_told(tmp_path, capsys):
    files = CheckpointFiles()
    fails(files, tmp_path)
    files.teardown()
    assert "cannot be written" in capsys.readouterr().err
    files.save_checkpoint({"global_step": 2}, tmp_path / "b")
    files.wait()
