"""A run folder: what it holds, which unfinished run is continued, and what the other verbs make of it."""

import json
import os
import re
import shutil

import pytest
import torch
import yaml
from PIL import Image

from commands import RING, TINY, decm, in_a_process, metrics, only, results, train
from decm.cli.main import overrides_first
from decm.runs.folders import new_folder, run_folders, same_settings, unfinished

NFES = ["1", "2"]


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    """The folder of a finished run on the 2-D ring, with the exact teacher."""
    runs = tmp_path_factory.mktemp("ring")
    answer = train(runs, settings=[*TINY, *RING, "evaluation.every=3", "evaluation.every_num_samples=50"])
    assert answer.code == 0, answer.said
    return only(runs / "decm_2d")


def test_a_run_folder_is_named_by_experiment_and_time(finished):
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", finished.folder.name)
    assert finished.folder.parent.name == "smoke"


def test_a_run_folder_holds_what_the_readme_says(finished):
    assert {path.name for path in finished.folder.iterdir() if path.name != ".lock"} == {
        "config.yaml",
        "results.json",
        "table.md",
        "metrics.csv",
        "checkpoints",
        "samples_nfe1.png",
        "samples_nfe2.png",
        "comparison.png",
        "report.html",
        "command.txt",
        "data.json",
    }
    folder = finished.folder / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"last.ckpt", "step_00000004.ckpt", "step_00000006.ckpt"}
    assert os.readlink(folder / "last.ckpt") == "step_00000006.ckpt"


def test_results_have_the_promised_shape(finished):
    r = results(finished.folder)
    assert set(r) >= {
        "experiment",
        "seed",
        "metric",
        "reference",
        "num_samples",
        "floor",
        "samplers",
        "teacher",
        "student",
        "accuracy",
        "seconds",
        "teacher_reused",
        "forward_equivalents",
        "code_version",
    }
    for key in ("samplers", "teacher", "student", "accuracy"):
        assert list(r[key]) == NFES
    assert (r["experiment"], r["seed"], r["metric"], r["num_samples"]) == ("smoke", 0, "frechet_distance", 60)
    assert set(r["seconds"]) == {"teacher", "distill", "evaluate"}
    assert r["floor"]["value"] > 0
    assert r["teacher_reused"] is False
    assert set(r["samplers"].values()) == {"jump", "flow_map_steps"}


def test_results_of_a_ring_have_the_map_errors(ring):
    r = results(ring)
    assert r["metric"] == "sliced_wasserstein"
    assert set(r["map_error"]) == {"0_1", "t_1", "0_t", "v"}
    assert list(r["teacher"]) == NFES
    assert "accuracy" not in r


def test_evaluation_in_the_loop_stands_in_the_metrics(ring):
    assert {step for step, row in metrics(ring).items() if "fd/1" in row} == {3, 6}
    assert {f"map_error/{name}" for name in ("0_1", "t_1", "0_t", "v")} <= set(metrics(ring)[6])


def test_the_configuration_is_resolved_and_composes_the_run_again(finished):
    config = yaml.safe_load((finished.folder / "config.yaml").read_text())
    assert "${" not in (finished.folder / "config.yaml").read_text()
    assert config["method"]["consistency"]["objective"]["form"]
    assert config["schedule"]["total"] == 6
    stored = torch.load(finished.folder / "checkpoints/last.ckpt", weights_only=True)
    assert stored["decm_config"] == config
    assert stored["global_step"] == 6


def test_pictures_are_pictures_and_the_table_is_printed_with_its_paths(finished):
    for name in ("samples_nfe1.png", "samples_nfe2.png", "comparison.png"):
        with Image.open(finished.folder / name) as picture:
            assert min(picture.size) > 50
    assert "Frechet distance of 60 samples" in finished.answer.out
    assert str(finished.folder / "comparison.png") in finished.answer.out
    assert (finished.folder / "table.md").read_text().startswith("# smoke")


def test_a_run_without_a_teacher_ends_with_a_checkpoint_of_its_last_step(cached):
    """Five steps with a checkpoint every two."""
    settings = [*TINY, "max_steps=5", "teacher=none", "method=fm"]
    assert train(cached, settings=settings).code == 0
    folder = only(cached / "smoke")
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 5
    assert results(folder)["teacher"] == {}
    assert set(results(folder)["samplers"].values()) == {"euler"}


def test_evaluating_a_run_again_gives_its_own_figures(finished, runs):
    """In a file of its own beside the results; another seed gives others."""
    folder = shutil.copytree(finished.folder, runs / "copy")
    assert decm("evaluate", f"checkpoint={folder}", "nfe=[1,2]").code == 0
    (again,) = folder.glob("evaluation_*.json")
    figures = json.loads(again.read_text())
    assert figures["student"] == results(folder)["student"]
    assert (folder / "results.json").read_text() == (finished.folder / "results.json").read_text()
    again.unlink()
    assert decm("evaluate", f"checkpoint={folder}/checkpoints/last.ckpt", "nfe=[1]", "seed=5").code == 0
    (other,) = folder.glob("evaluation_*.json")
    assert json.loads(other.read_text())["student"]["1"] != figures["student"]["1"]


def test_samples_are_drawn_from_seeds_into_a_picture(finished, tmp_path):
    def draw(name, *overrides):
        assert decm("sample", f"checkpoint={finished.folder}", f"out={tmp_path / name}", *overrides).code == 0
        return (tmp_path / name).read_bytes()

    one = draw("a/one.png", "labels=[0,1,2]", "rows=2", "nfe=2")
    assert one == draw("again.png", "labels=[0,1,2]", "rows=2", "nfe=2")
    assert one != draw("seed.png", "labels=[0,1,2]", "rows=2", "nfe=2", "seed=1")
    assert one != draw("nfe.png", "labels=[0,1,2]", "rows=2", "nfe=50")


def settings_of(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


def copies(finished, runs, *names):
    """Run folders of the same settings, without their results."""
    for name in names:
        shutil.copytree(finished.folder, runs / "smoke" / name, ignore=shutil.ignore_patterns("results.json"))
    return settings_of(finished.folder)


def test_the_newest_unfinished_run_of_the_same_settings_is_continued(finished, runs):
    settings = copies(finished, runs, "2020-01-01_00-00-00", "2022-01-01_00-00-00", "2021-01-01_00-00-00")
    assert unfinished(runs, settings).name == "2022-01-01_00-00-00"
    shutil.copy(finished.folder / "results.json", runs / "smoke" / "2022-01-01_00-00-00")
    assert unfinished(runs, settings).name == "2021-01-01_00-00-00"
    assert unfinished(runs, {**settings, "seed": 1}) is None
    assert unfinished(runs, {**settings, "name": "other"}) is None
    assert unfinished(runs, {**settings, "resume": "auto", "debug": True}).name == "2021-01-01_00-00-00"
    assert [folder.name[:4] for folder in run_folders(runs, "smoke")] == ["2022", "2021", "2020"]


def test_settings_are_the_same_up_to_how_a_run_is_started():
    assert same_settings({"a": 1, "resume": None}, {"a": 1, "resume": "auto", "debug": True})
    assert same_settings({"a": 1, "runs": "here"}, {"a": 1, "runs": "moved"})
    assert not same_settings({"a": 1}, {"a": 1, "b": 2})
    assert not same_settings({"a": 1}, {"a": 2})


def test_runs_that_start_within_a_second_have_folders_of_their_own(tmp_path):
    assert len({new_folder(tmp_path, "x") for _ in range(5)}) == 5


def test_resume_starts_afresh_where_nothing_is_unfinished(finished, runs):
    shutil.copytree(finished.folder, runs / "smoke" / finished.folder.name)
    answer = train(runs, "resume=auto")
    assert answer.code == 0
    assert "Continuing" not in answer.out
    assert len(list((runs / "smoke").iterdir())) == 2


@pytest.mark.slow
def test_a_sweep_is_one_run_for_each_value(runs):
    answer = train(runs, "-m", "method=fm,fm_cd", "max_steps=2")
    assert answer.code == 0, answer.said
    sweep = only(runs / "smoke" / "multirun")
    folders = sorted(path for path in sweep.iterdir() if path.is_dir())
    assert [path.name for path in folders] == ["0", "1"]
    assert [list(settings_of(path)["method"]) for path in folders] == [
        ["instantaneous"],
        ["instantaneous", "consistency"],
    ]
    assert all((path / "results.json").is_file() for path in folders)


@pytest.mark.parametrize("flag", [["-m"], ["--multirun"]])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_flag_may_stand_anywhere_among_the_overrides(place, flag):
    words = ["experiment=smoke", "~method.consistency", "+optimizer.eps=1e-8"]
    argv = ["decm", *words[:place], *flag, *words[place:], "--cfg", "job"]
    assert overrides_first(argv) == ["decm", *words, *flag, "--cfg", "job"]


@pytest.mark.slow
def test_a_warning_of_ours_reaches_the_user():
    """A damaged record that is skipped, say: also in the second job of a sweep."""
    say = "import atexit, logging; atexit.register(logging.getLogger('decm.data.latents').warning, 'damaged')"
    answer = in_a_process("train", "-m", "max_steps=0,-1", before=say)
    assert answer.code == 2
    assert "damaged" in answer.err.splitlines()
