"""`decm sample` needs the checkpoint alone, and `decm evaluate` the data set, wherever it lies now."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from commands import NO_TEACHER, RING, TINY, decm, in_a_process, only, results, train
from decm.cli.sample import limit_of
from decm.data.arrays import write_arrays
from decm.evaluation.pictures import ImagePainter, PointsPainter
from decm.generator.files import Stored
from decm.generator.model import Generator
from helpers import random_states

REPORT = (
    "import atexit, sys; atexit.register(lambda: print([name in sys.modules for name in ('lightning', 'sklearn')]))"
)


def written(folder, seed, classes=3):
    """Noise as 8x8 pictures of three or more classes."""
    arrays = {"train_x": random_states(40, (1, 8, 8), seed), "heldout_x": random_states(20, (1, 8, 8), seed + 1)}
    arrays = {key: value.sigmoid().float() for key, value in arrays.items()}
    arrays |= {"train_y": torch.arange(40) % 3, "heldout_y": torch.arange(20) % 3}
    write_arrays(folder, arrays, "noise", classes, "made by hand")
    return folder


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """A run that was moved, and its data set, which was moved elsewhere; nothing is where it was."""
    root = tmp_path_factory.mktemp("moved")
    settings = [*NO_TEACHER, "data=folder", f"data.path={written(root / 'set', 0)}", "network.num_classes=3"]
    answer = train(root / "runs", *settings, "max_steps=2")
    assert answer.code == 0, answer.said
    run = shutil.move(only(root / "runs" / "smoke"), root / "run")
    shutil.rmtree(root / "runs")
    return run, (root / "set").rename(root / "elsewhere"), root


def test_samples_are_drawn_where_data_and_judge_are_gone(moved, tmp_path):
    run, _, root = moved
    before = sorted(path.name for path in root.iterdir())
    answer = decm("sample", f"checkpoint={run}", "nfe=2", "rows=4", f"out={tmp_path / 'a.png'}", "device=cpu")
    assert answer.code == 0, answer.said
    assert sorted(path.name for path in root.iterdir()) == before  # nothing is made where data or judge were
    generator = Generator.from_pretrained(run, device="cpu")
    states = generator.states([0, 1, 2] * 4, steps=2)
    ImagePainter(generator.decoder(), 3).grid(states, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    ImagePainter(generator.decoder(), 3).grid(states.flip(0), tmp_path / "c.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()


def test_an_exported_folder_is_sampled_as_its_run(model, exported, finished, tmp_path):
    for name, path in (("run", finished.folder), ("exported", exported)):
        assert decm("sample", f"checkpoint={path}", "rows=2", f"out={tmp_path / name}.png", "device=cpu").code == 0
    assert (tmp_path / "run.png").read_bytes() == (tmp_path / "exported.png").read_bytes()


def test_data_that_were_moved_are_evaluated_on_where_they_are_now(moved):
    run, data, _ = moved
    answer = decm("evaluate", f"checkpoint={run}", "nfe=[1,2]", "device=cpu")
    assert (answer.code, "does not exist" in answer.err, "data.path" in answer.err) == (2, True, True)
    answer = decm("evaluate", f"checkpoint={run}", "nfe=[1,2]", f"data.path={data}", "device=cpu")
    assert answer.code == 0, answer.said
    (found,) = [json.loads(path.read_text()) for path in run.glob("evaluation_*.json")]
    for key in ("student", "accuracy", "floor"):
        assert found[key] == results(run)[key]


def test_other_data_are_refused_by_name(moved, finished, tmp_path):
    run, *_ = moved
    answer = decm("evaluate", f"checkpoint={run}", f"data.path={written(tmp_path / 'other', 5)}", "device=cpu")
    assert answer.code == 2
    assert f"data.path={tmp_path / 'other'} holds 'noise' of content" in answer.err
    others = written(tmp_path / "more", 7, classes=4)  # which would not fit the network either
    answer = decm("evaluate", f"checkpoint={run}", f"data.path={others}", "device=cpu")
    assert (answer.code, f"data.path={others} holds 'noise' of content" in answer.err) == (2, True)
    answer = decm("evaluate", f"checkpoint={finished.folder}", f"data.path={tmp_path / 'other'}", "device=cpu")
    assert (answer.code, "has no effect: the data of this run are" in answer.err) == (2, True)


@pytest.mark.parametrize(
    "words", [["sample", "checkpoint=x"], ["export", "run=x", "out=y"], ["consolidate", "checkpoint=x", "out=y"]]
)
def test_verbs_that_need_no_data_know_no_data_path(words):
    answer = decm(*words, "data.path=z")
    assert (answer.code, "Could not override 'data.path'" in answer.err) == (2, True)


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    runs = tmp_path_factory.mktemp("ring")
    answer = train(runs, "max_steps=2", *NO_TEACHER, settings=[*TINY, *RING])
    assert answer.code == 0, answer.said
    return only(runs / "decm_2d")


def test_points_are_painted_within_the_limits_of_their_data_else_of_the_samples(ring, tmp_path):
    """Five deviations beyond the means, which a checkpoint carries; 5% beyond the outermost sample without that."""
    assert decm("sample", f"checkpoint={ring}", f"out={tmp_path / 'a.png'}", "device=cpu").code == 0
    generator = Generator.from_pretrained(ring, device="cpu")
    states = generator.states(num=PointsPainter.columns, steps=4)
    assert limit_of(generator, states) == pytest.approx(1.4 + 5 * 0.1)
    for name, limit in (("same", limit_of(generator, states)), ("wider", 3.0)):
        PointsPainter(limit).grid(states, tmp_path / f"{name}.png")
    same, wider = (
        (tmp_path / f"{name}.png").read_bytes() == (tmp_path / "a.png").read_bytes() for name in ("same", "wider")
    )
    assert (same, wider) == (True, False)
    weights, config = generator.network.state_dict(), generator.config
    bare = Generator(Stored(weights, {**config, "data": {**config["data"], "extra": {}}}, ring), "cpu")
    assert limit_of(bare, states) == pytest.approx(1.05 * float(states.abs().max()))
    states[0] = float("nan")
    assert 0 < limit_of(bare, states) < 10


def test_labels_of_a_model_without_classes_have_no_effect(ring, tmp_path):
    answer = decm("sample", f"checkpoint={ring}", "labels=[0]", f"out={tmp_path / 'a.png'}", "device=cpu")
    assert (answer.code, "labels=[0] has no effect" in answer.err) == (2, True)


@pytest.mark.parametrize(
    ("verb", "values", "out"), [("sample", "nfe=1,2", "a.png"), ("consolidate", "weights=ema,student", "a.safetensors")]
)
def test_a_job_of_a_sweep_does_not_replace_what_another_has_written(finished, tmp_path, monkeypatch, verb, values, out):
    monkeypatch.chdir(tmp_path)
    first = [verb, f"checkpoint={finished.folder}", values.split(",")[0]]
    alone = decm(*first, f"out={tmp_path / f'alone_{out}'}")
    assert alone.code == 0, alone.said
    for _ in range(2):  # a later command may
        answer = decm(*first[:2], "-m", values, f"out={tmp_path / out}")
        assert (answer.code, "an earlier job" in answer.err) == (2, True), answer.said
    read = (
        load_file if verb == "consolidate" else lambda path: {"picture": torch.from_numpy(np.asarray(Image.open(path)))}
    )
    found, expected = read(tmp_path / out), read(tmp_path / f"alone_{out}")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)


@pytest.mark.slow
def test_sampling_imports_neither_lightning_nor_what_data_need(moved, tmp_path):
    run, data, _ = moved
    words = [f"checkpoint={run}", "device=cpu"]
    answer = in_a_process("sample", *words, f"out={tmp_path / 'a.png'}", before=REPORT)
    assert (answer.code, answer.out.splitlines()[-1]) == (0, "[False, False]"), answer.said
    answer = in_a_process("evaluate", *words, f"data.path={data}", "nfe=[1]", before=REPORT)
    assert (answer.code, answer.out.splitlines()[-1][:5]) == (0, "[True"), answer.said  # the negative control


def test_a_folder_that_cannot_be_made_is_refused_by_the_name_of_its_setting(finished, tmp_path):
    (tmp_path / "file").write_text("")
    answer = decm("sample", f"checkpoint={finished.folder}", f"out={tmp_path / 'file' / 'a.png'}")
    assert answer.code == 2
    assert f"out={tmp_path / 'file' / 'a.png'}" in answer.err
