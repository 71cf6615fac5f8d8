"""One damaged run folder stops neither the list of the others nor their cleaning, and is named."""

import shutil

import pytest
import yaml

from commands import decm
from decm.runs.folders import metric_at, read_config, read_results, unfinished
from decm.settings.composition import teacher_hash
from decm.sweeps.job import finished_metric
from run_folders import CONFIG, make_folder

CONFIGS = ["[1]", "plain", "", "a: [1", "a: 2020-13-45", "\xff\x00"]
RESULTS = ["[1]", '"plain"', "", "{", "\xff", '{"student": [1]}', '{"student": {"1": "low"}}', '{"teacher": {"a": 1}}']
BROKEN = [*(("config.yaml", text) for text in CONFIGS), *(("results.json", text) for text in RESULTS)]
THIN = [
    ("config.yaml", "name: toy\n"),
    ("config.yaml", "name: toy\nteacher: auto\nmax_steps: many\n"),
    ("config.yaml", "teacher: {kind: auto}\n"),
    ("results.json", "{}"),
    ("results.json", '{"student": null}'),
]


def damage(path, text):
    path.write_bytes(text.encode("latin-1"))


@pytest.fixture
def two(tmp_path):
    """A root with a sound run and one to damage, each with a checkpoint that could go."""
    folders = []
    for name in ("sound", "struck"):
        folder = make_folder(tmp_path / "runs" / "toy" / name)
        (folder / "checkpoints").mkdir()
        for step in (2, 4):
            (folder / "checkpoints" / f"step_{step:08d}.ckpt").write_bytes(b"x")
        (folder / "checkpoints" / "last.ckpt").symlink_to("step_00000004.ckpt")
        folders.append(folder)
    return tmp_path / "runs", *folders


def line_of(answer, name):
    assert answer.code == 0, answer.said
    (found,) = [line for line in answer.out.splitlines() if name in line]
    return found


@pytest.mark.parametrize(("name", "text"), BROKEN)
def test_a_damaged_run_is_listed_as_such_and_cleaned_by_nobody(two, name, text):
    root, sound, struck = two
    damage(struck / name, text)
    for answer in (decm("runs", f"runs={root}"), decm("runs", f"runs={root}", "name=toy")):
        assert " damaged " in line_of(answer, "toy/struck")
        assert f"{name} is damaged" in line_of(answer, "toy/struck")
        assert " finished " in line_of(answer, "toy/sound")
        assert " 40/40 " in line_of(answer, "toy/sound")
    answer = decm("clean", f"runs={root}", "dry_run=false", "yes=true")
    assert answer.code == 0, answer.said
    assert len(list((struck / "checkpoints").iterdir())) == 3
    assert len(list((sound / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize(("name", "text"), THIN)
def test_a_run_with_little_in_its_files_is_listed_with_what_there_is(two, name, text):
    root, _, struck = two
    damage(struck / name, text)
    assert " finished " in line_of(decm("runs", f"runs={root}"), "toy/struck")
    (struck / "results.json").unlink()
    assert " unfinished " in line_of(decm("runs", f"runs={root}"), "toy/struck")
    assert decm("clean", f"runs={root}").code == 0


@pytest.mark.parametrize(("name", "text"), BROKEN)
def test_damaged_files_are_named_where_they_are_read(tmp_path, name, text):
    damage(tmp_path / name, text)
    with pytest.raises(ValueError, match=f"{tmp_path / name} is damaged"):
        (read_config if name == "config.yaml" else read_results)(tmp_path)


def test_what_a_run_with_damaged_results_starts_from_stays(two):
    """It is trained on as soon as they are removed; without the damage the run needs nothing more."""
    root, sound, struck = two
    (struck / "config.yaml").write_text(yaml.safe_dump(CONFIG | {"warm_start": str(sound)}))
    assert str(sound) in decm("clean", f"runs={root}").out
    damage(struck / "results.json", "{")
    assert "Nothing to remove" in decm("clean", f"runs={root}").out


@pytest.mark.parametrize("text", ["name: toy\n", "network: small\ntrainer: cpu\nmax_steps: many\n"])
def test_a_run_with_few_settings_is_no_run_that_another_goes_on_with(two, text):
    root, _, struck = two
    (struck / "results.json").unlink()
    settings = read_config(struck)
    assert unfinished(root, settings) == struck
    damage(struck / "config.yaml", text)
    assert unfinished(root, settings) is None
    assert teacher_hash(read_config(struck)) != teacher_hash(settings)


@pytest.mark.parametrize(("text", "said"), [("{", "results.json is damaged"), ("{}", "have no figures")])
def test_a_job_of_a_sweep_with_damaged_results_is_told(two, text, said):
    _, sound, struck = two
    assert finished_metric(sound, CONFIG) == 1.5
    damage(struck / "results.json", text)
    with pytest.raises(ValueError, match=said):
        finished_metric(struck, CONFIG)


def test_results_without_figures_are_told():
    for results in ({}, {"student": {}, "teacher": None}):
        with pytest.raises(ValueError, match="have no figures"):
            metric_at(results)
    assert metric_at({"teacher": {"1": 3.0, "2": 1.5}}) == ("teacher", 2, 1.5)


def test_a_run_of_an_unknown_name_is_that_of_its_folder(two):
    root, sound, struck = two
    shutil.rmtree(sound)
    damage(struck / "config.yaml", "[1]")
    assert "No run of experiment other" in decm("runs", f"runs={root}", "name=other").out
