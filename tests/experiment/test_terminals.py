"""Terminals that close, letters that a locale lacks, and places that may not be written or are something else's."""

import json
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from commands import TINY, command, decm, only, results, train
from decm.data.arrays import folder as open_set
from decm.data.raw import ROUNDING
from decm.generator.model import Generator
from decm.training.callbacks.reliability.preemption import Preemption
from forked import decm_beside, environment
from raw_arrays import raw, write

# As `| tee log` after Ctrl-C.
READER_GONE = (
    "import os, sys; r, w = os.pipe(); os.close(r); sys.stdout = open(w, 'w'); sys.stderr = open(os.dup(w), 'w')"
)
QUICK = ["max_steps=2", "evaluation.nfe=[1]"]


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_run_whose_terminal_is_gone_is_saved_all_the_same(runs, number):
    settings = [*TINY, f"runs={runs}", "max_steps=100000", "trainer.checkpoint_every=100000"]
    run = decm_beside("train", *settings, before=READER_GONE)
    # The file is there before the training, and with it the handlers; a third line is of a step.
    wait_for(lambda: any(path.read_text().count("\n") > 2 for path in runs.glob("smoke/*/metrics.csv")))
    run.send_signal(number)
    assert run.wait() == 75
    (saved,) = only(runs / "smoke").glob("checkpoints/step_*.ckpt")
    assert saved.stat().st_size > 0


@pytest.mark.parametrize("before", [READER_GONE, "import sys; sys.stdout = sys.stderr = None"])
def test_a_run_that_nobody_reads_comes_to_its_end(runs, before):
    assert decm_beside("train", *TINY, f"runs={runs}", *QUICK, before=before).wait() == 0
    assert results(only(runs / "smoke"))["student"]["1"] > 0


def test_who_does_not_want_to_be_hung_up_is_not(tmp_path):
    """nohup, which has the signal ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    callback = Preemption(tmp_path)
    try:
        callback.on_train_start(None, None)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) == callback._ask
    finally:
        callback.restore()
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_without_unicode_a_set_has_its_names_and_a_run_its_folder(tmp_path, runs):
    """LC_ALL=C with Python's own remedies switched off."""
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        for k in range(8):
            Image.fromarray(np.full((8, 8), 20 * k, np.uint8)).save(tmp_path / "images" / name / f"{k}.png")
    (tmp_path / "names.txt").write_text("猫\nKäse\n", encoding="utf-8")
    plain = environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    words = [f"images={tmp_path / 'images'}", "size=8", "channels=1", f"class_names={tmp_path / 'names.txt'}"]
    train_words = [*TINY, *QUICK, f"data.path={tmp_path / 'set'}", "data=folder", f"runs={runs / 'Über'}"]
    train_words += ["teacher=none", "method=fm", "network.num_classes=2"]
    for arguments in (
        ["data", *words, f"out={tmp_path / 'set'}"],
        ["train", *train_words],
    ):
        done = subprocess.run(command(*arguments), env=plain, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stderr
    assert open_set(str(tmp_path / "set")).manifest.labels() == ["猫", "Käse"]
    run = only(runs / "Über" / "smoke")
    assert json.loads((run / "data.json").read_text(encoding="utf-8"))["class_names"] == ["猫", "Käse"]
    assert results(run)["student"]["1"] > 0


def test_two_evaluations_within_a_second_are_two(finished, tmp_path, monkeypatch):
    run = shutil.copytree(finished.folder, tmp_path / "run", symlinks=True)
    monkeypatch.setattr("decm.runs.folders.TIME_FORMAT", "now")
    for seed in (1, 2):
        answer = decm("evaluate", f"checkpoint={run}", f"seed={seed}", "nfe=[1]", "num_samples=50")
        assert answer.code == 0, answer.said
    assert {path.name for path in run.glob("evaluation_*")} == {
        "evaluation_now.json",
        "evaluation_now.md",
        "evaluation_now_1.json",
        "evaluation_now_1.md",
    }
    figures = [path.read_text() for path in run.glob("evaluation_*.md")]
    assert "samples of seed 1" in "".join(figures)
    assert figures[0] != figures[1]


def test_a_run_that_may_not_be_written_is_evaluated_elsewhere(finished, tmp_path):
    before = {path.name for path in finished.folder.iterdir()}
    words = [f"checkpoint={finished.folder}", "nfe=[1]", "num_samples=50"]
    assert decm("evaluate", *words, f"out={tmp_path / 'elsewhere'}").code == 0
    assert len(list((tmp_path / "elsewhere").glob("evaluation_*.json"))) == 1
    assert {path.name for path in finished.folder.iterdir()} == before
    (tmp_path / "file").touch()
    answer = decm("evaluate", *words, f"out={tmp_path / 'file'}")
    assert (answer.code, "out=" in answer.err) == (2, True)


@pytest.mark.slow
def test_a_sweep_over_names_has_one_folder_and_goes_on(runs):
    words = ["-m", "name=a,b", *QUICK, "teacher=none", "method=fm"]
    answer = train(runs, *words)
    assert answer.code == 0, answer.said
    (sweep,) = runs.glob("*/multirun/*")
    assert sorted(path.parent.name for path in sweep.glob("*/results.json")) == ["0", "1"]
    assert "| 0 |" in (sweep / "sweep.md").read_text()
    (sweep / "1" / "results.json").unlink()
    answer = train(runs, *words, "resume=auto")
    assert answer.code == 0, answer.said
    assert f"{sweep / '0'} is done" in answer.out
    assert list(runs.glob("*/multirun/*")) == [sweep]


def test_a_model_is_not_exported_into_a_run(finished):
    answer = decm("export", f"run={finished.folder}", f"out={finished.folder}")
    assert (answer.code, "run folder" in answer.err) == (2, True)
    assert not (finished.folder / "model.safetensors").exists()


def test_a_run_beside_the_folder_that_is_cleaned_keeps_what_it_starts_from(finished, runs):
    base = shutil.copytree(finished.folder, runs / "base" / "2000-01-01_00-00-00", symlinks=True)
    start = base / "checkpoints" / "step_00000004.ckpt"
    other = runs / "smoke" / "2000-01-01_00-00-00"
    other.mkdir(parents=True)
    settings = yaml.safe_load((finished.folder / "config.yaml").read_text())
    for path, name in ((base, "base"), (other, "smoke")):
        (path / "config.yaml").write_text(yaml.safe_dump({**settings, "name": name, "runs": str(runs)}))
    words = [f"runs={runs / 'base'}", "dry_run=false", "yes=true"]
    (other / "config.yaml").write_text(
        yaml.safe_dump({**settings, "teacher": {"kind": "checkpoint", "path": str(start)}, "runs": str(runs)})
    )
    assert decm("clean", *words).code == 0
    assert start.exists()
    shutil.rmtree(other)
    assert decm("clean", *words).code == 0
    assert not start.exists()  # the control: nobody needs it


@pytest.mark.parametrize("spoil", [lambda text: "\ufeff" + text, lambda text: text.replace(",", ";")])
def test_metrics_that_a_spreadsheet_has_saved_are_read_or_named(runs, spoil):
    assert train(runs, *QUICK, "trainer.checkpoint_every=1").code == 0
    run = only(runs / "smoke")
    before = (run / "metrics.csv").read_text()
    (run / "metrics.csv").write_text(spoil(before), encoding="utf-8")
    (run / "results.json").unlink()
    answer = train(runs, *QUICK, "trainer.checkpoint_every=1", "resume=auto")
    if ";" in (run / "metrics.csv").read_text():
        assert (answer.code, "metrics.csv" in answer.err) == (2, True)
        (run / "metrics.csv").rename(run / "spoilt.csv")
        answer = train(runs, *QUICK, "trainer.checkpoint_every=1", "resume=auto")
    assert answer.code == 0, answer.said
    assert (run / "metrics.csv").read_text().startswith("step")


@pytest.mark.parametrize("device", [torch.device("cpu"), "cpu"])
def test_a_device_may_be_torchs(finished, device):
    assert Generator.from_pretrained(finished.folder, device=device).device == "cpu"
    with pytest.raises(ValueError, match="device"):
        Generator.from_pretrained(finished.folder, device=None)


@pytest.mark.parametrize(("by", "said"), [(ROUNDING / 4, None), (0.01, "Clip"), (1.0, "Divide by 255")])
def test_pixels_a_little_above_one_are_rounding_and_more_is_refused(tmp_path, by, said):
    arrays = raw()
    arrays["train_x"][0, 0, 0, 0] = 1 + by
    if said is None:
        write(tmp_path / "set", arrays)
        dataset = open_set(str(tmp_path / "set"))
        pixels = dataset.train_x[0, 0, 0, 0] * dataset.manifest.std[0] + dataset.manifest.mean[0]
        assert float(pixels) == pytest.approx(1.0, abs=1e-6)
        return
    with pytest.raises(ValueError, match=said):
        write(tmp_path / "set", arrays)


def test_a_name_may_have_any_letters(runs):
    assert train(runs, *QUICK, "name=実験", "teacher=none", "method=fm").code == 0
    assert results(only(runs / "実験"))["experiment"] == "実験"
    answer = decm("runs", f"runs={runs}", "name=実験")
    assert answer.code == 0
    assert only(runs / "実験").name in answer.out
