"""Slips of the daily kind: what lies in the way, a misspelt file, another command in a folder; each a sentence."""

import errno

import pytest
from PIL import Image

from commands import decm, only, train

QUICK = ["max_steps=2", "evaluation.nfe=[1]"]


def test_class_folders_beside_a_tar_are_refused_by_name_for_every_verb(tmp_path):
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        for k in range(4):
            Image.new("L", (8, 8), 20 * k).save(tmp_path / "images" / name / f"{k}.png")
    (tmp_path / "images" / "old.tar").touch()
    words = [f"images={tmp_path / 'images'}", "size=8"]
    for verb, out in (("data", "set"), ("reference", "r.npz")):
        answer = decm(
            verb, *words, f"out={tmp_path / out}", *(["features=random_small"] if verb == "reference" else [])
        )
        assert (answer.code, "old.tar" in answer.err, (tmp_path / out).exists()) == (2, True, False), answer.said


@pytest.mark.parametrize("target", ["torch.optim.SGD", "torch.optim.AdamWW"])
def test_an_optimizer_that_cannot_be_made_is_a_sentence(runs, target):
    answer = train(runs, f"optimizer._target_={target}", "teacher=none", "method=fm")
    assert (answer.code, "optimizer._target_" in answer.err, "Traceback" in answer.said) == (2, True, False)
    assert not (runs / "smoke").exists()


@pytest.mark.parametrize("text", ["name: mine\n\tmax_steps: 2", "max_steps 2\nname: x", "name: [a"])
def test_a_slip_in_a_file_of_ones_own_is_a_sentence_with_its_name(tmp_path, text):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    answer = decm("train", "--config-dir", str(tmp_path), "experiment=mine", "dry_run=true")
    assert (answer.code, "mine.yaml" in answer.err, "Traceback" in answer.said) == (2, True, False), answer.said


def test_a_run_on_a_file_system_without_links_ends_and_is_sampled(runs, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    assert train(runs, *QUICK, "trainer.checkpoint_every=1", "teacher=none", "method=fm").code == 0
    run = only(runs / "smoke")
    assert not (run / "checkpoints" / "last.ckpt").exists()
    assert decm("sample", f"checkpoint={run}", f"out={tmp_path / 'a.png'}").code == 0


def test_the_page_of_a_run_may_lie_elsewhere(finished, tmp_path):
    answer = decm("report", f"path={finished.folder}", f"out={tmp_path / 'page.html'}")
    assert answer.code == 0, answer.said
    assert "<html" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_refused_sweep_leaves_the_record_of_the_one_that_is_there(runs):
    words = ["-m", *QUICK, "teacher=none", "method=fm"]
    assert train(runs, *words, "seed=0,1").code == 0
    sweep = only(runs / "smoke" / "multirun")
    before = (sweep / "sweep.yaml").read_text()
    answer = train(runs, *words, "optimizer.lr=1e-3,2e-3", f"hydra.sweep.dir={sweep}")
    assert (answer.code, "another sweep" in answer.err) == (2, True), answer.said
    assert (sweep / "sweep.yaml").read_text() == before
    (sweep / "1" / "results.json").unlink()
    answer = train(runs, *words, "trainer.log_every=2", "seed=0,1", "resume=auto")
    assert "starts a new sweep" in answer.out
    assert train(runs, *words, "seed=0,1,2", f"hydra.sweep.dir={sweep}").code == 0  # longer: goes on
    assert len(list(sweep.glob("*/results.json"))) == 3
