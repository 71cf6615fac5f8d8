"""Slips of the daily kind: what lies in the way, a misspelt file, another command in a folder; each a sentence."""

import errno

import pytest
import torch
from PIL import Image

from commands import NO_TEACHER, decm, only, train
from decm.checkpoints.folder import newest
from decm.data.manifest import read_manifest
from decm.runs.folders import read_config
from decm.settings.composition import compose
from decm.training.wandb_mode import mode_of_environment, wandb_mode

QUICK = ["max_steps=2", "evaluation.nfe=[1]"]


def test_class_folders_beside_a_tar_are_refused_by_name_for_every_verb(tmp_path):
    pictures(tmp_path / "images", "ab")
    (tmp_path / "images" / "old.tar").touch()
    words = [f"images={tmp_path / 'images'}", "size=8"]
    for verb, out in (("data", "set"), ("reference", "r.npz")):
        answer = decm(
            verb, *words, f"out={tmp_path / out}", *(["features=random_small"] if verb == "reference" else [])
        )
        assert (answer.code, "old.tar" in answer.err, (tmp_path / out).exists()) == (2, True, False), answer.said


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("optimizer._target_=torch.optim.SGD", "~optimizer.betas"),
        ("optimizer._target_=torch.optim.AdamWW", "optimizer._target_"),
        ("optimizer=adam", "optimizer=adam"),
        ("optimizer=null", "optimizer"),
        ("evaluation.protocol=null", "evaluation.protocol"),
        ("+optimizer.eps=small", "optimizer.eps"),
        ("optimizer.betas=0.9", "optimizer.betas"),
        ("optimizer.betas=[0.9]", "cannot be used with these settings: IndexError"),
        ("times=decm.flow.times.logit_normal_times", "arctan_normal"),
        ("times=", "~times"),
        ("times=null", "~times"),
        ("teacher=null", "auto, checkpoint, exact, none, weights"),
        ("logger=", "csv, wandb"),
        ("teacher=3", "int"),
    ],
)
def test_what_cannot_be_made_is_a_sentence(runs, word, named):
    answer = train(runs, "method=fm", word)
    assert (answer.code, named in answer.err, "Traceback" in answer.said) == (2, True, False), answer.said
    assert not (runs / "smoke").exists()


def test_a_map_of_the_times_is_chosen_by_its_name(cached):
    answer = train(cached, *QUICK, *NO_TEACHER, "times=logit_normal", "times.mean=-0.5")
    assert answer.code == 0, answer.said
    stored = read_config(only(cached / "smoke"))["times"]
    assert (stored["_target_"], stored["mean"]) == ("decm.flow.times.logit_normal_times", -0.5)
    assert compose("train", ["experiment=teacher_imagenet"]).times.std == 1.0
    assert compose("train", ["experiment=teacher_imagenet", "~times"]).times is None
    assert compose("train", ["experiment=decm_imagenet", "times=arctan_normal"]).times.mean == -0.8


def test_a_setting_that_needs_another_gets_it_in_the_teachers_training_too(cached):
    answer = train(cached, *QUICK, "jvp=split", "trainer.activation_checkpointing=true")
    assert answer.code == 0, answer.said
    assert read_config(only(cached / "teacher_smoke"))["jvp"] == "split"


def test_a_refusal_of_the_teachers_settings_says_so(cached):
    answer = train(cached, "batch_size=12", "accumulate=3", "teacher.experiment=decm_2d")
    assert (answer.code, "The teacher (teacher.experiment=decm_2d): " in answer.err) == (2, True), answer.said


def test_what_is_printed_has_the_brackets_of_a_path(cached):
    """They are no markup, and neither are colons."""
    runs = cached.rename(cached.with_name("runs [new] :smile:"))
    answer = train(runs, *QUICK, *NO_TEACHER)
    assert answer.code == 0, answer.said
    folder = only(runs / "smoke")
    for path in (folder, folder / "table.md", folder / "comparison.png"):
        assert f" {path}\n" in answer.out
    answer = decm("evaluate", f"checkpoint={folder}", "nfe=[1]")
    assert f" {folder}/evaluation_" in answer.out, answer.said


def test_another_optimizer_trains_with_its_own_arguments(runs):
    words = ["optimizer._target_=torch.optim.SGD", "~optimizer.betas", "+optimizer.momentum=0.9"]
    answer = train(runs, *QUICK, "teacher=none", "method=fm", *words)
    assert answer.code == 0, answer.said
    folder = only(runs / "smoke")
    stored = read_config(folder)["optimizer"]
    assert (stored["_target_"], stored["momentum"], "betas" in stored) == ("torch.optim.SGD", 0.9, False)
    state = torch.load(newest(folder / "checkpoints"), weights_only=True)["optimizer_states"][0]["state"]
    assert set(state[0]) == {"momentum_buffer"}


@pytest.mark.parametrize("name", ["RAdam", "NAdam", "Adamax"])
def test_an_optimizer_that_keeps_its_arguments_is_saved_and_goes_on(cached, name):
    """Its lists are Python's own, which alone a checkpoint holds."""
    words = [*NO_TEACHER, *QUICK, "schedule=constant", f"optimizer._target_=torch.optim.{name}"]
    answer = train(cached, *words)
    assert answer.code == 0, answer.said
    folder = only(cached / "smoke")
    (group,) = torch.load(newest(folder / "checkpoints"), weights_only=True)["optimizer_states"][0]["param_groups"]
    assert list(group["betas"]) == [0.9, 0.99]
    answer = train(cached, *words, "max_steps=4", f"resume={folder}")
    assert "at step 2 of 4" in answer.out, answer.said


class Unsaveable(torch.optim.SGD):
    """Keeps what no checkpoint holds."""

    def __init__(self, params, lr, **ignored):
        super().__init__(params, lr)
        self.param_groups[0]["what"] = object()


def test_an_optimizer_that_no_checkpoint_can_hold_is_refused_before_anything_is_made(cached, monkeypatch):
    monkeypatch.setenv("DECM_TRUST", __name__.partition(".")[0])
    answer = train(cached, *NO_TEACHER, f"optimizer._target_={__name__}.Unsaveable", "~optimizer.betas")
    assert (answer.code, "param_groups/0/what is of type object" in answer.err) == (2, True), answer.said
    assert not (cached / "smoke").exists()


def pictures(folder, classes, count=4):
    """`count` gray pictures of 8x8 in a folder a class."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for k in range(count):
            Image.new("L", (8, 8), 20 * k).save(folder / name / f"{k}.png")
    return folder


def test_parts_of_a_data_set_are_no_classes_and_what_a_system_left_is_none(tmp_path):
    folder = pictures(tmp_path / "set", ["train", "val"])
    answer = decm("data", f"images={folder}", "size=8", f"out={tmp_path / 'out'}")
    assert (answer.code, f"images={folder / 'train'}" in answer.err) == (2, True), answer.said
    assert not (tmp_path / "out").exists()
    (pictures(tmp_path / "other", ["a", "test"]) / "lost+found").mkdir()
    answer = decm("data", f"images={tmp_path / 'other'}", "size=8", f"out={tmp_path / 'out'}", "heldout=0.25")
    assert answer.code == 0, answer.said
    assert read_manifest(tmp_path / "out").class_names == ("a", "test")


def test_a_verb_that_refuses_makes_no_folder(finished, tmp_path):
    for verb, *words in (
        ("sample", f"out={tmp_path / 'new' / 'a.png'}", "nfe=0"),
        ("sample", f"out={tmp_path / 'new' / 'a.png'}", "labels=[99]"),
        ("sample", f"out={tmp_path}"),
        ("evaluate", f"out={tmp_path / 'new'}", "nfe=[0]"),
        ("evaluate", f"out={tmp_path / 'new'}", "nfe=1"),
    ):
        answer = decm(verb, f"checkpoint={finished.folder}", *words)
        assert (answer.code, "Traceback" in answer.said) == (2, False), answer.said
        assert list(tmp_path.iterdir()) == []
    assert "in brackets" in answer.err


def test_a_set_of_shards_is_not_imported_over_itself(tmp_path):
    folder = tmp_path / "set"
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    words = ["num=8", "shape=[4,2,2]", "num_classes=2", f"class_names={tmp_path / 'names.txt'}"]
    assert decm("latents", "synth", f"out={folder}", *words).code == 0
    answer = decm("latents", "import", f"source={folder}", f"out={folder}")
    assert (answer.code, "is a set already" in answer.err) == (2, True), answer.said
    assert read_manifest(folder).class_names == ("cat", "dog")


def test_wandbs_switch_to_leave_it_off_is_heeded(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_DISABLED", "true")
    assert wandb_mode(None) == "disabled"
    assert wandb_mode("offline") == "offline"
    monkeypatch.setenv("WANDB_DISABLED", "false")
    assert mode_of_environment() is None


def test_an_experiment_without_its_first_line_is_told_of_it(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("name: mine\nmax_steps: 2\n")
    answer = decm("train", "--config-dir", str(tmp_path), "experiment=mine", "dry_run=true")
    assert (answer.code, "@package _global_" in answer.err) == (2, True), answer.said


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
