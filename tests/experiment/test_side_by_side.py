"""What goes wrong beside a run: other evaluations, other data for its teacher, W&B's folder, a signal at its end."""

import json
import os
import shutil
import signal
import time

import pytest
import torch
from PIL import Image
from sqlalchemy import create_engine

from commands import TINY, decm, only, results, train
from decm.data.arrays import write_arrays
from decm.data.manifest import read_manifest
from decm.evaluation.stored import CACHE, StoredEvaluator
from decm.experiment.teachers import renamed_classes
from decm.flow.flow_map import FlowMap
from decm.sweeps.optuna_study import as_url
from decm.training.loggers import LONGEST_TAG
from forked import decm_beside

QUICK = ["max_steps=2", "evaluation.nfe=[1]", "teacher=none", "method=fm"]
WANDB = [word for word in TINY if not word.startswith("logger")]


def evaluator(folder, seed=0):
    """One of 4 batches of 2 points."""
    return StoredEvaluator(
        judge=None, shape=(2, 1, 1), num_classes=0, seed=seed, batch_size=2, samplers={}, folder=folder / CACHE
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_an_evaluation_that_ends_first_leaves_the_samples_of_another_one_alone(tmp_path, seed):
    """Of the same samples (seed 0) or of others, in the same folder."""
    alone = evaluator(tmp_path / "alone").samples(FlowMap(lambda x, t, s, y: x), 1, 8, [])
    calls = []

    def net(x, t, s, y):
        calls.append(len(x))
        if len(calls) == 3:  # another one begins and ends within this one
            other = evaluator(tmp_path, seed)
            other.samples(FlowMap(lambda x, t, s, y: x), 1, 8, [])
            other.forget()
        return x

    mine = evaluator(tmp_path)
    assert torch.equal(mine.samples(FlowMap(net), 1, 8, []), alone)
    assert len(list((tmp_path / CACHE).glob("*/*.npy"))) == 4
    mine.forget()
    assert not (tmp_path / CACHE).exists()


def test_the_card_of_an_older_checkpoint_has_the_figures_of_its_own_step_or_none(runs, tmp_path):
    words = ["method=fm_cd", "teacher=none", "schedule=constant", "evaluation.nfe=[1]"]
    assert train(runs, *words, "max_steps=4", "trainer.keep=9").code == 0
    run = only(runs / "smoke")
    first = results(run)["student"]["1"]
    assert train(runs, *words, "max_steps=8", "trainer.keep=9", f"resume={run}").code == 0
    for step, expected in ((4, first), (6, None), (8, results(run)["student"]["1"])):
        out = tmp_path / f"step{step}"
        answer = decm("export", f"run={run / 'checkpoints' / f'step_{step:08d}.ckpt'}", f"out={out}")
        assert answer.code == 0, answer.said
        found = json.loads((out / "config.json").read_text())["results"]
        assert (found and found["student"]["1"]) == expected
    assert first != results(run)["student"]["1"]


def test_the_figures_of_a_run_are_not_those_of_a_file_that_was_put_beside_them(runs, tmp_path):
    for seed in (0, 1):
        assert train(runs, *QUICK, f"seed={seed}").code == 0
    other, run = sorted((runs / "smoke").iterdir())
    assert decm("consolidate", f"checkpoint={run}", f"out={other / 'ema.safetensors'}").code == 0
    assert decm("export", f"run={other / 'ema.safetensors'}", f"out={tmp_path / 'model'}").code == 0
    assert json.loads((tmp_path / "model" / "config.json").read_text())["results"] is None


@pytest.fixture
def animals(tmp_path):
    """Two sets of pictures of three classes each, of which two are the same at other labels."""
    for name, classes in (("a", ("cat", "dog", "zebra")), ("b", ("bird", "cat", "dog"))):
        for animal in classes:
            for number in range(8):
                path = tmp_path / "pictures" / name / animal / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (8, 8), 10 * len(animal) + 40 * (animal == "dog") + number).save(path)
        words = [f"images={tmp_path / 'pictures' / name}", "size=8", "channels=1", "num_classes=5"]
        assert decm("data", *words, f"out={tmp_path / name}").code == 0
    return tmp_path


def test_a_teacher_of_other_classes_is_refused_and_a_warm_start_names_them(animals, runs):
    assert renamed_classes({"class_names": ["cat"]}, read_manifest(animals / "b")) == "label 0 was 'cat' and is 'bird'"
    assert renamed_classes({"class_names": None}, read_manifest(animals / "b")) == ""
    words = ["data=folder", "network.num_classes=5", *QUICK]
    answer = train(runs, *words, f"data.path={animals / 'a'}")
    assert answer.code == 0, answer.said
    assert "2 have no training picture" in results(only(runs / "smoke"))["reference"]
    run = only(runs / "smoke")
    given = ["teacher=checkpoint", f"teacher.path={run}"]
    assert train(runs, *words, *given, f"data.path={animals / 'a'}", "name=same").code == 0
    answer = train(runs, *words, *given, f"data.path={animals / 'b'}", "name=other")
    assert (answer.code, "'cat' and is 'bird'" in answer.err, (runs / "other").exists()) == (2, True, False)
    answer = train(runs, *words, f"data.path={animals / 'b'}", f"warm_start={run}", "name=warm")
    assert (answer.code, "'cat' and is 'bird'" in answer.out) == (0, True), answer.said


def test_a_teacher_of_other_data_is_named_with_its_normalization(runs, tmp_path):
    x, y = torch.rand(120, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(120) % 10
    for name, power in (("a", 1), ("b", 2)):
        arrays = {"train_x": x[:80] ** power, "train_y": y[:80], "heldout_x": x[80:] ** power, "heldout_y": y[80:]}
        write_arrays(tmp_path / name, arrays, name, 10, "made up")
    words = [*QUICK, "data=folder"]
    assert train(runs, *words, f"data.path={tmp_path / 'a'}").code == 0
    run = only(runs / "smoke")
    given = ["teacher=checkpoint", f"teacher.path={run}"]
    for name, said in (("a", False), ("b", True)):
        answer = train(runs, *words, *given, f"data.path={tmp_path / name}", f"name={name}")
        assert (answer.code, "trained on other data: 'a', normalized by" in answer.out) == (0, said), answer.said
    answer = train(runs, *words, f"warm_start={run}", f"data.path={tmp_path / 'b'}", "name=warm")
    assert (answer.code, "trained on other data, 'a', normalized by" in answer.out) == (0, True), answer.said
    first, second = (results(only(runs / name))["data"] for name in "ab")
    assert first != second  # though both have as many pictures
    page = tmp_path / "compare.html"
    both = f"runs=[{only(runs / 'a')},{only(runs / 'b')}]"
    assert decm("report", both, f"out={page}").code == 0
    assert "so that their figures do not compare" in page.read_text()
    shutil.copytree(only(runs / "b"), runs / "a" / "other")
    assert "*" not in decm("runs", f"runs={runs}", "name=a").out.split("experiment)", 1)[1]


NETWORK = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self, fault: str = "none", num_classes: int = 10) -> None:
        super().__init__()
        self.shape, self.num_classes, self.fault = (1, 8, 8), num_classes, fault
        self.labels = nn.Embedding(num_classes + (fault != "no_null"), 1)
        self.conv = nn.Conv2d(1, 2 if fault == "wide" else 1, 3, padding=1)

    def forward(self, x, t, s, y):
        F = self.conv(x) + self.labels(y)[:, :, None, None]
        return F.mean((2, 3), keepdim=True) if self.fault == "narrow" else F / float(self.fault != "nan")
"""


@pytest.mark.parametrize(
    ("fault", "said"),
    [("none", ""), ("narrow", "shape"), ("wide", "shape"), ("no_null", "IndexError"), ("nan", "finite")],
)
def test_a_network_of_ones_own_is_called_once_before_anything_is_made(runs, tmp_path, monkeypatch, fault, said):
    (tmp_path / f"own_{fault}.py").write_text(NETWORK)
    (tmp_path / "conf" / "network").mkdir(parents=True)
    (tmp_path / "conf" / "network" / "own.yaml").write_text(f"_target_: own_{fault}.Own\nfault: {fault}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DECM_TRUST", f"own_{fault}")
    settings = [word for word in TINY if not word.startswith("network.")]
    words = [*QUICK, "network=own", "~network.hidden_size", "~network.depth", "--config-dir", str(tmp_path / "conf")]
    answer = train(runs, *words, settings=settings)
    assert (answer.code, said in answer.err, "Traceback" in answer.said) == (2 if said else 0, True, False), answer.said
    assert (runs / "smoke").exists() == (not said)


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("+optimizer.capturable=true", "optimizer._target_"),
        ("trainer.clip_norm=nan", "trainer.clip_norm"),
        ("trainer.clip_norm=inf", "trainer.clip_norm"),
    ],
)
def test_what_only_a_step_would_refuse_is_refused_before_the_teacher_is_trained(cached, word, named):
    answer = train(cached, word)
    assert (answer.code, named in answer.err, "Traceback" in answer.said) == (2, True, False), answer.said
    assert not list(cached.glob("*smoke"))


def test_differences_in_half_precision_are_refused(cached):
    answer = train(cached, "jvp=finite_difference", "trainer.precision=bf16-mixed")
    assert (answer.code, "jvp=finite_difference" in answer.err, "precision" in answer.err) == (2, True, True), (
        answer.said
    )
    assert not list(cached.glob("*smoke"))


@pytest.mark.parametrize("devices", ["-1", "-2", "[0,1]", "two"])
def test_devices_that_lightning_refuses_are_named(cached, devices):
    answer = train(cached, f"trainer.devices={devices}", "trainer.accelerator=cpu")
    assert (answer.code, "trainer.devices=" in answer.err, "Traceback" in answer.said) == (2, True, False), answer.said
    assert not list(cached.glob("*smoke"))


@pytest.mark.parametrize("words", [["logger.project=a/b"], ["logger.dir={}/file/below"], ["logger.dir={}/file"]])
def test_what_wandb_would_refuse_or_put_elsewhere_is_refused_first(cached, tmp_path, words):
    (tmp_path / "file").write_text("no folder")
    answer = train(cached, "logger.mode=offline", *[word.format(tmp_path) for word in words], settings=WANDB)
    assert (answer.code, "logger." in answer.err) == (2, True), answer.said
    assert not list(cached.glob("*smoke"))


@pytest.mark.parametrize(
    ("name", "value"), [("WANDB_CONSOLE", "on"), ("WANDB_RUN_ID", "a/b c"), ("WANDB_BASE_URL", "me:secret@nowhere")]
)
def test_a_variable_that_wandb_would_refuse_is_named_first_without_its_value(cached, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    answer = train(cached, "logger.mode=offline", settings=WANDB)
    assert (answer.code, name in answer.err, value in answer.err) == (2, True, False), answer.said
    assert not list(cached.glob("*smoke"))


def test_a_long_name_is_no_obstacle_to_wandb(cached):
    name = "n" * (LONGEST_TAG + 10)
    answer = train(cached, "logger.mode=offline", f"name={name}", *QUICK, settings=WANDB)
    assert answer.code == 0, answer.said
    assert list(only(cached / name).glob("wandb/offline-run-*"))


def test_a_study_lies_in_its_folder_whatever_the_folder_is_called(tmp_path):
    folder = tmp_path / "we ird?#%20"
    folder.mkdir()
    with create_engine(as_url(f"sqlite:///{folder}/study.db")).connect() as connection:
        connection.exec_driver_sql("create table t (x int)")
    assert [path.name for path in folder.iterdir()] == ["study.db"]
    assert as_url("sqlite:///plain/study.db") == "sqlite:///plain/study.db"
    assert as_url(None) is None


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]])
def test_a_signal_in_the_final_evaluation_ends_as_one_in_the_training(runs, more):
    words = [*TINY, f"runs={runs}", "max_steps=2", "evaluation.nfe=[50]", "evaluation.num_samples=20000", *more]
    run = decm_beside("train", *words)
    saved = f"smoke/*/{'samples_cache/*/*.npy' if more else 'checkpoints/last.ckpt'}"
    end = time.monotonic() + 120
    while not list(runs.glob(saved)):
        assert time.monotonic() < end, "it did not begin"
        time.sleep(0.05)
    time.sleep(1)
    run.send_signal(signal.SIGTERM)
    assert run.wait() == 75
    folder = only(runs / "smoke")
    assert not (folder / "results.json").exists()
    if more:  # the other rank has gone too
        time.sleep(1)
        before = len(list(folder.glob("samples_cache/*/*.npy")))
        time.sleep(1)
        assert len(list(folder.glob("samples_cache/*/*.npy"))) == before
    shutil.rmtree(folder / CACHE, ignore_errors=True)
    assert os.path.exists(folder / "checkpoints" / "last.ckpt")
