"""W&B offline where nobody is logged in, one W&B run a run, and metrics.csv without W&B."""

import json
import shutil
import subprocess
import sys

import pytest

from commands import RING, TINY, decm, in_a_process, metrics, results
from decm.runs.folders import read_config as settings_of
from decm.training.loggers import build_loggers, finish
from decm.training.wandb_mode import wandb_mode

TRACKED = [*TINY, *RING, "logger=wandb", "max_steps=4", "evaluation.every=2", "evaluation.every_num_samples=50"]
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "wandb":
            raise ModuleNotFoundError("wandb is blocked")
sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """The folders of two runs that one process made, one after the other, with W&B offline."""
    runs = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        answer = decm("train", "-m", "seed=0,1", *TRACKED, f"runs={runs}")
    assert answer.code == 0, answer.said
    (sweep,) = (runs / "decm_2d" / "multirun").iterdir()
    return [sweep / "0", sweep / "1"]


def offline_run(folder):
    (found,) = (folder / "wandb").glob("offline-run-*")
    return found


def summary_of(run):
    """{name: value}, read with W&B's own tool."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(run)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)["summary"]


@pytest.mark.slow
def test_an_offline_run_lies_in_the_run_folder(tracked):
    for folder in tracked:
        assert list(offline_run(folder).glob("run-*.wandb"))


def test_two_runs_of_one_process_are_two_wandb_runs(tracked):
    names = [offline_run(folder).name for folder in tracked]
    ids = [(folder / "wandb_id").read_text() for folder in tracked]
    assert len(set(ids)) == 2
    assert all(name.endswith(own) for name, own in zip(names, ids, strict=True))


def test_the_summary_holds_the_final_figures(tracked):
    for folder in tracked:
        summary = summary_of(offline_run(folder))
        r = results(folder)
        for nfe, value in r["student"].items():
            assert float(summary[f"fd/{nfe}"]) == pytest.approx(value, rel=1e-6)
        for name, value in r["map_error"].items():
            assert float(summary[f"map_error/{name}"]) == pytest.approx(value, rel=1e-6)


def records(run, kind):
    """The records of a kind in an offline run's own file, read with W&B's own tool."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    return [record[kind] for record in map(json.loads, lines) if record["type"] == kind]


def test_the_summary_of_an_unfinished_run_is_its_lowest_distance_and_mean_speed(tracked, tmp_path, monkeypatch):
    """Of what is not named, by the last value."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = shutil.copytree(tracked[0], tmp_path / "run", ignore=shutil.ignore_patterns("wandb"))
    loggers = build_loggers(settings_of(folder), folder, None)
    for step, value in enumerate((3.0, 1.0, 2.0)):
        for logger in loggers:
            figures = {"fd/1": value, "map_error/v": 2 * value, "speed/samples_per_s": value, "loss/a": value}
            logger.log_metrics(figures, step=step)
    finish(loggers)
    summary = summary_of(offline_run(folder))
    assert summary["fd/1"] == {"min": 1}
    assert summary["map_error/v"] == {"min": 2}
    assert summary["speed/samples_per_s"] == {"mean": 2}
    assert summary["loss/a"] == 2


def test_runs_are_filtered_by_experiment_segments_and_nested_settings(tracked):
    (run,) = records(offline_run(tracked[1]), "run")
    config = run["config"]["update"]
    assert config["experiment"] == "decm_2d"
    assert config["segments"] == "consistency+instantaneous+noise_to_noisy"
    assert config["seed"] == 1
    assert config["optimizer"]["lr"] == 1e-3
    assert "segment" not in config  # what the run is not trained on
    assert set(run["tags"]) == {"decm_2d", "consistency", "instantaneous", "noise_to_noisy"}


@pytest.mark.slow
def test_a_run_of_images_ends_with_a_table_of_samples_by_seed_and_label(runs, monkeypatch):
    """Its pictures wait in the run folder for an upload."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert decm("train", *TINY, f"runs={runs}", "logger=wandb", "max_steps=2").code == 0
    folder = next(path.parent for path in (runs / "smoke").glob("2*/results.json"))
    (path,) = (offline_run(folder) / "files" / "media" / "table").glob("samples_by_seed*.json")
    table = json.loads(path.read_text())
    assert table["columns"] == ["sample", "label", "teacher, 2", "1 step", "2 steps"]
    assert [row[:2] for row in table["data"]] == [[k, k] for k in range(10)]
    (artifact,) = records(offline_run(folder), "artifact")
    pictures = [entry for entry in artifact["manifest"]["contents"] if entry["path"].startswith("media/images")]
    assert len(pictures) == 30
    assert all(entry["local_path"].startswith(str(folder / "wandb")) for entry in pictures)
    summary = summary_of(offline_run(folder))
    assert float(summary["forward_equivalents"]) == results(folder)["forward_equivalents"]
    assert float(summary["seconds/distill"]) == pytest.approx(results(folder)["seconds"]["distill"], rel=1e-6)


def test_an_evaluation_adds_its_figures_to_the_summary_of_the_run(tracked, tmp_path, monkeypatch):
    """In the W&B run of the same id, under names of its own; no network."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = shutil.copytree(tracked[0], tmp_path / "run")
    before = set((folder / "wandb").glob("offline-run-*"))
    answer = decm("evaluate", f"checkpoint={folder}", "nfe=[1,2]", "seed=5")
    assert answer.code == 0, answer.said
    (again,) = set((folder / "wandb").glob("offline-run-*")) - before
    assert again.name.endswith((folder / "wandb_id").read_text())
    summary, figures = summary_of(again), json.loads(next(folder.glob("evaluation_*.json")).read_text())
    for nfe, value in figures["student"].items():
        assert float(summary[f"evaluation/fd/{nfe}"]) == pytest.approx(value, rel=1e-6)
        assert value != results(folder)["student"][nfe]
    assert float(summary["evaluation/map_error/v"]) == pytest.approx(figures["map_error"]["v"], rel=1e-6)
    assert "fd/1" not in summary


def test_an_evaluation_of_a_run_without_wandb_tells_it_nothing(finished, tmp_path):
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    assert decm("evaluate", f"checkpoint={folder}", "nfe=[1]").code == 0
    assert not (folder / "wandb").exists()
    assert not (folder / "wandb_id").exists()


def test_metrics_csv_is_there_with_wandb_too(tracked):
    for folder in tracked:
        assert {f"loss/{name}" for name in ("consistency", "instantaneous", "noise_to_noisy")} <= set(
            metrics(folder)[3]
        )


@pytest.mark.slow
def test_without_wandb_installed_csv_runs_and_wandb_is_an_error(tmp_path):
    """Importing wandb is made impossible; the negative control is that logger=wandb then fails."""
    settings = [*TINY, *RING, "max_steps=2", f"runs={tmp_path}"]
    answer = in_a_process("train", *settings, "logger=csv", before=BLOCKED)
    assert answer.code == 0, answer.said
    (folder,) = (tmp_path / "decm_2d").iterdir()
    assert "loss/consistency" in metrics(folder)[1]
    assert in_a_process("train", *settings, "logger=wandb", "logger.mode=offline", before=BLOCKED).code != 0


def test_the_mode_is_what_the_user_set(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode("offline") == "offline"
    assert wandb_mode(None) == "disabled"
    with pytest.raises(ValueError, match=r"logger\.mode='sometimes' is unknown"):
        wandb_mode("sometimes")


def test_nobody_logged_in_is_offline_without_a_prompt(monkeypatch, capsys, tmp_path):
    """A home without a login, and a terminal that would have to answer."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a prompt"))
    assert wandb_mode(None) == "offline"
    said = capsys.readouterr().out
    assert "kept offline" in said
    assert "wandb sync" in said
