"""When a run saves, and what it keeps; which checkpoint it goes on from."""

import os

import pytest
import torch
from lightning.pytorch import Callback

from decm.checkpoints.files import read_file, write_file
from decm.checkpoints.folder import checkpoints, name_of, newest_valid
from decm.training.callbacks.base import DistillationCallback
from decm.training.callbacks.reliability.checkpoints import Checkpoints
from decm.training.checkpoint_io import CheckpointFiles
from tiny import all_segments, fit, tiny_module


class Scores(DistillationCallback):
    """An evaluation in the loop that finds what it is told to."""

    def __init__(self, values):
        self.values, self.acted_at, self.value = values, 0, None

    def on_optimizer_step(self, trainer, module):
        if trainer.global_step in self.values:
            self.acted_at, self.value = trainer.global_step, self.values[trainer.global_step]


class Stop(Callback):
    """Asks for an end after a micro-batch."""

    def __init__(self, batch):
        self.batch = batch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == self.batch:
            trainer.should_stop = True


class Saves(Callback):
    """Counts checkpoints."""

    def __init__(self):
        self.steps = []

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        self.steps.append(trainer.global_step)


def run(folder, steps, every, keep=2, evaluate=None, others=(), measured=None, **options):
    """The steps at which a run saved."""
    saves, extra = Saves(), [evaluate] if evaluate else []
    saving = Checkpoints(folder, every, keep, evaluate, measured)  # in front, and yet it comes last
    fit(
        tiny_module(),
        [saving, *all_segments(), *extra, *others, saves],
        steps,
        ckpt_path=newest_valid(folder),
        enable_checkpointing=True,
        plugins=[CheckpointFiles()],
        **options,
    )
    return saves.steps


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_saves_every_few_steps_and_at_the_last_one_and_keeps_the_newest(tmp_path):
    assert run(tmp_path, 7, 2) == [2, 4, 6, 7]
    assert names(tmp_path) == ["last.ckpt", name_of(6), name_of(7)]
    assert os.readlink(tmp_path / "last.ckpt") == name_of(7)
    assert run(tmp_path, 7, 2) == []
    assert run(tmp_path, 9, 2, keep=3) == [8, 9]
    assert names(tmp_path) == ["last.ckpt", name_of(7), name_of(8), name_of(9)]


def test_micro_batches_within_a_step_save_nothing(tmp_path):
    assert run(tmp_path, 4, 1, accumulate_grad_batches=4) == [1, 2, 3, 4]


@pytest.mark.parametrize(("micro", "batch"), [(1, 4), (2, 8), (2, 9), (4, 17)])
def test_a_run_that_is_to_stop_saves_once_at_the_end_of_its_step_and_goes_on_there(tmp_path, micro, batch):
    assert run(tmp_path, 9, 100, others=[Stop(batch)], accumulate_grad_batches=micro) == [5]
    stored = read_file(tmp_path / "last.ckpt")
    assert stored["loops"]["fit_loop"]["state_dict"]["combined_loader"] == [{"samples": 5 * 8}]
    assert run(tmp_path, 9, 100, accumulate_grad_batches=micro) == [9]
    whole = tmp_path / "whole"
    run(whole, 9, 100, accumulate_grad_batches=micro)
    weights = [read_file(folder / "last.ckpt")["state_dict"] for folder in (tmp_path, whole)]
    assert all(torch.equal(weights[0][key], value) for key, value in weights[1].items())


def test_a_stop_where_it_saves_anyway_saves_once(tmp_path):
    assert run(tmp_path, 9, 5, others=[Stop(4)]) == [5]


def test_the_best_is_kept_and_named_also_after_a_resume(tmp_path):
    values = {2: 5.0, 3: 3.0, 4: 4.0, 6: float("nan")}
    assert run(tmp_path, 8, 4, evaluate=Scores(values)) == [2, 3, 4, 8]
    assert names(tmp_path) == ["best.ckpt", "last.ckpt", name_of(3), name_of(4), name_of(8)]
    assert os.readlink(tmp_path / "best.ckpt") == name_of(3)
    assert run(tmp_path, 12, 4, evaluate=Scores({10: 3.5, 11: 2.0})) == [11, 12]
    assert names(tmp_path) == ["best.ckpt", "last.ckpt", name_of(11), name_of(12)]
    assert os.readlink(tmp_path / "best.ckpt") == name_of(11)


def test_the_best_by_another_evaluation_is_kept_and_the_best_is_looked_for_anew(tmp_path, capsys):
    """After a resume with other samples the figures do not compare: neither replaces the other."""
    assert run(tmp_path, 4, 4, evaluate=Scores({2: 3.0}), measured="50 samples") == [2, 4]
    assert run(tmp_path, 20, 4, evaluate=Scores({6: 5.0, 8: 4.0}), measured="1000 samples") == [6, 8, 12, 16, 20]
    assert "was found by another evaluation" in capsys.readouterr().out
    assert names(tmp_path) == ["best.ckpt", "last.ckpt", *map(name_of, (2, 8, 16, 20))]
    assert os.readlink(tmp_path / "best.ckpt") == name_of(8)
    assert run(tmp_path, 24, 4, evaluate=Scores({22: 3.5}), measured="1000 samples") == [22, 24]
    assert names(tmp_path) == ["best.ckpt", "last.ckpt", *map(name_of, (2, 22, 24))]


def damage(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def test_the_newest_whole_one_is_used_and_what_is_damaged_is_named_and_set_aside(tmp_path, capsys):
    run(tmp_path, 8, 2, keep=4)
    for step in (6, 8):
        damage(tmp_path / name_of(step))
    assert newest_valid(tmp_path) == tmp_path / name_of(4)
    said = capsys.readouterr().out.splitlines()
    assert [str(tmp_path / name_of(step)) in line for step, line in zip((8, 6, 4), said, strict=True)] == [True] * 3
    assert "is damaged" in said[0]
    assert "Using the newest one that is whole instead" in said[2]
    assert run(tmp_path, 9, 2) == [6, 8, 9]
    assert names(tmp_path) == [
        "last.ckpt",
        f"{name_of(6)}.damaged",
        name_of(8),
        f"{name_of(8)}.damaged",
        name_of(9),
    ]


def test_where_none_is_whole_it_says_so_and_starts_afresh(tmp_path, capsys):
    assert newest_valid(tmp_path) is None
    assert newest_valid(tmp_path / "nowhere") is None
    assert capsys.readouterr().out == ""
    run(tmp_path, 2, 1)
    for path in checkpoints(tmp_path):
        damage(path)
    assert newest_valid(tmp_path) is None
    assert "(2 damaged): nothing to go on from" in capsys.readouterr().out
    assert run(tmp_path, 2, 1) == [1, 2]


def test_a_last_checkpoint_of_an_older_decm_is_gone_on_from(tmp_path):
    run(tmp_path, 3, 3)
    (tmp_path / "last.ckpt").unlink()
    (tmp_path / name_of(3)).rename(tmp_path / "last.ckpt")
    assert run(tmp_path, 5, 5) == [5]
    assert names(tmp_path) == ["last.ckpt", name_of(3), name_of(5)]
    assert (tmp_path / "last.ckpt").is_symlink()


def test_what_killed_saves_left_is_cleared_away(tmp_path):
    write_file({"global_step": 1}, tmp_path / "run" / name_of(1))
    (tmp_path / "run" / f"{name_of(2)}.part").touch()
    (tmp_path / "run" / f"{name_of(3)}.old").mkdir()
    (tmp_path / "run" / name_of(1)).unlink()
    run(tmp_path / "run", 1, 1)
    assert names(tmp_path / "run") == ["last.ckpt", name_of(1)]


@pytest.mark.parametrize("settings", [{"every": 0}, {"keep": 0}])
def test_settings_that_cannot_be_are_refused(tmp_path, settings):
    with pytest.raises(ValueError, match="expected both 1 or more"):
        Checkpoints(tmp_path, **{"every": 1, **settings})
