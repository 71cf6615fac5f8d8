"""Runs on folders of 8x8 pictures are judged by a classifier of their own, which says how good it is."""

import json
import math
import shutil

import pytest
import torch

from commands import NO_TEACHER, decm, only, results, train
from decm.checkpoints.files import read_file, write_file
from decm.data.arrays import write_arrays
from decm.generator.model import Generator


def pictures(num, classes, seed):
    """Gray 8x8 pictures [N, 1, 8, 8] with noise, each class a bright column at a height of its own; labels [N]."""
    y = torch.arange(num) % max(1, classes)
    x = 0.2 * torch.rand(num, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    x[torch.arange(num), 0, y // 8 * 4, y % 8] += 0.8
    return x, y


def written(folder, classes, num=48):
    """A set of `num` training pictures and half as many held out."""
    (train_x, train_y), (heldout_x, heldout_y) = pictures(num, classes, 0), pictures(num // 2, classes, 1)
    arrays = {"train_x": train_x, "train_y": train_y, "heldout_x": heldout_x, "heldout_y": heldout_y}
    write_arrays(folder, arrays, "columns", classes, "made by hand")
    return [*NO_TEACHER, "data=folder", f"data.path={folder}", f"network.num_classes={classes}", "max_steps=2"]


def test_twelve_classes_of_few_pictures_are_trained_on_judged_and_drawn(tmp_path):
    """48 training pictures, fewer than the classifier's batch; its held-out accuracy stands where its figures do."""
    answer = train(tmp_path / "runs", *written(tmp_path / "set", 12), "report=true")
    assert answer.code == 0, answer.said
    run = only(tmp_path / "runs" / "smoke")
    found = results(run)
    score = found["floor"]["heldout_accuracy"]
    assert score > 0.8 > 0.2 > found["floor"]["guess_accuracy"] == pytest.approx(1 / 12)
    assert found["floor"]["heldout"] > 0
    said = f"right on {score:.1%} of held-out images"
    for text in (answer.out, (run / "table.md").read_text(), (run / "report.html").read_text()):
        assert said in text
    generator = Generator.from_pretrained(run, device="cpu")
    assert generator(labels=[11]).shape == (1, 8, 8, 3)
    generator.save_pretrained(tmp_path / "model")
    assert said in (tmp_path / "model" / "README.md").read_text()


def test_a_classifier_that_learns_nothing_says_so_before_the_training(tmp_path):
    """Labels without anything to do with the pictures."""
    settings, folder = written(tmp_path / "set", 12), tmp_path / "set"
    (x, y), (heldout_x, heldout_y) = pictures(48, 1, 2), pictures(24, 12, 3)
    y = torch.arange(48) % 12
    arrays = {"train_x": x, "train_y": y, "heldout_x": heldout_x, "heldout_y": heldout_y.flip(0)}
    write_arrays(folder, arrays, "columns", 12, "made by hand")
    answer = train(tmp_path / "runs", *settings)
    assert answer.code == 0, answer.said
    assert answer.out.count("say little") == 2  # at the beginning, and below the table
    assert answer.out.index("say little") < answer.out.index("step 2/2")


@pytest.mark.parametrize("classes", [0, 1])
def test_a_set_without_classes_is_not_judged_by_a_classifier(classes, tmp_path):
    answer = train(tmp_path / "runs", *written(tmp_path / "set", classes))
    assert (answer.code, f"num_classes={classes}; expected 2" in answer.err) == (2, True), answer.said


def test_samples_that_are_not_numbers_have_figures_that_are_none(finished, runs):
    """As pictures they would be black, and have finite ones."""
    folder = shutil.copytree(finished.folder, runs / "smoke" / "copy", symlinks=True)
    stored = read_file(folder / "checkpoints/last.ckpt")
    stored["state_dict"]["ema.x_embedder.bias"].fill_(math.nan)
    write_file(stored, runs / "nan.ckpt")
    answer = decm("evaluate", f"checkpoint={runs / 'nan.ckpt'}", "nfe=[1]", "device=cpu")
    assert answer.code == 0, answer.said
    assert "60 of 60 samples at NFE 1 are NaN or infinite" in answer.out
    (found,) = [json.loads(path.read_text()) for path in runs.glob("evaluation_*.json")]
    assert all(math.isnan(found[key]["1"]) for key in ("student", "accuracy", "precision", "recall", "memorized"))
    assert math.isfinite(found["floor"]["value"])
    shutil.copy(next(runs.glob("evaluation_*.json")), folder / "results.json")
    answer = decm("report", f"path={folder}")
    assert answer.code == 0, answer.said
