"""Words of the command line that are no settings, and paths as people write them."""

import shutil

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from commands import decm
from decm.cli.main import check_words, find_action
from decm.runs.exits import stopped
from decm.settings.words import quote_paths, typed_words


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["train", ""], "''"),
        (["train", "experiment=smoke", ""], "''"),
        (["clean", "C"], "'C'"),
        (["export", "S"], "'S'"),
        (["train", "-m", "smoke"], "'smoke'"),
        (["train", "+eps"], "'+eps'"),
        (["latents", "check", "here"], "'here'"),
        (["report", "A", "B"], "'B'"),
    ],
)
def test_a_word_that_is_no_setting_is_told_in_one_sentence(words, found):
    answer = decm(*words)
    assert answer.code == 2, answer.said
    assert answer.err == f"decm: expected key=value, found {found}. See decm {words[0]} --help.\n"


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=smoke", "-m", "~method.fm", "+a=1", "++b=", "--cfg", "job"],
        ["-cp", "folder", "-cn", "config.yaml", "hydra.output_subdir=null", "--info", "searchpath"],
    ],
)
def test_settings_flags_and_what_flags_take_pass(words):
    check_words("train", ["decm", *words])


@pytest.mark.parametrize("name", ["it's", "a\\", "a b", 'say "so"', "x,y", "plain"])
def test_a_folder_is_reported_whatever_its_name_is(finished, tmp_path, name):
    run = shutil.copytree(finished.folder, tmp_path / name, symlinks=True)
    (run / "report.html").unlink()
    answer = decm("report", str(run))
    assert answer.code == 0, answer.said
    assert (run / "report.html").is_file()


def test_a_setting_is_left_as_it_is():
    argv = ["decm", "path=it's"]
    find_action("report", argv)
    assert argv == ["decm", "path=it's"]


def test_samples_for_a_file_that_is_no_picture_are_refused_before_anything_is_loaded(tmp_path):
    """There is no such checkpoint either; the picture's name is looked at first, and a good one lets it through."""
    settings = [f"checkpoint={tmp_path / 'nowhere'}", "device=cpu"]
    answer = decm("sample", *settings, "out=samples.npz")
    assert (answer.code, "out=samples.npz; expected a picture file" in answer.err) == (2, True)
    answer = decm("sample", *settings, f"out={tmp_path / 'samples.PNG'}")
    assert (answer.code, "nowhere" in answer.err) == (2, True)


@pytest.mark.parametrize(("verb", "resumes"), [("train", True), ("data", False), ("sample", False)])
def test_ctrl_c_names_resume_to_a_training_alone(monkeypatch, verb, resumes):
    monkeypatch.setenv("DECM_VERB", verb)
    assert ("resume=auto" in stopped()) is resumes


def test_an_interpolation_of_an_override_is_written_down_as_typed():
    """A job gives it a value of its own: a folder named by ${seed} is another one for each seed."""
    words = {"task": ["name=x-${seed}"], "hydra": ["hydra.sweep.subdir=${seed}"]}
    hydra = OmegaConf.create({"seed": 0, "hydra": {"overrides": words}}).hydra
    assert list(hydra.overrides.task) == ["name=x-0"]
    assert (typed_words(hydra), typed_words(hydra, "hydra")) == (words["task"], words["hydra"])


@pytest.mark.parametrize(
    ("text", "arrives"),
    [("a/${x}", "a/${x}"), ("a/${x.y}", "a/${x.y}"), ("${seed}", "7"), ("${ x }", "${ x }"), ("${data.name}", "set")],
)
def test_an_interpolation_of_no_setting_is_the_text_of_a_path(text, arrives):
    (word,) = quote_paths("train", [f"runs={text}"])
    override = OverridesParser.create().parse_override(word)
    cfg = OmegaConf.create({"seed": 7, "data": {"name": "set"}, "runs": override.value()})
    assert str(cfg.runs) == arrives


def test_an_interpolation_that_leads_nowhere_is_told_in_a_sentence(tmp_path):
    answer = decm("sample", "checkpoint=${oc.env:NO_SUCH_VARIABLE_ANYWHERE}", f"out={tmp_path / 'x.png'}")
    assert answer.code == 2
    assert "NO_SUCH_VARIABLE_ANYWHERE" in answer.err
    assert "Traceback" not in answer.err
    strange = decm("sample", f"checkpoint={tmp_path}/${{x}}", f"out={tmp_path / 'x.png'}")
    assert (strange.code, "${x} does not exist" in strange.err) == (2, True)
