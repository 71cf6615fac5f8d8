"""Settings of one's own beside the package's: all that is on the command line reaches jobs, processes and records."""

import shlex

import pytest
import yaml

from commands import TINY, decm, environment, in_a_process, metrics, only, results
from decm.cli.main import overrides_first
from decm.settings.words import absolute_folders

MINE = "# @package _global_\ndefaults:\n  - smoke\n  - _self_\nname: mine\nmax_steps: 2\n"
SETTINGS = ["experiment=mine", *(word for word in TINY if word.split("=")[0] not in ("experiment", "max_steps"))]
FAST = ["distill=false", "evaluation.nfe=[1]"]
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.threads=1"]
WAYS = pytest.mark.parametrize(
    "words", [["--config-dir", "conf"], ["-cd", "conf"], ["--config-dir=conf"], ["hydra.searchpath=[file://conf]"]]
)


def settings(text):
    """A configuration without what `--cfg job` alone has, all methods' numbers, or a run alone, its files' contents."""
    return {key: value for key, value in yaml.safe_load(text).items() if key not in ("segments", "contents")}


@pytest.fixture
def here(runs, monkeypatch):
    """A working folder with runs/ and an experiment of its own in conf/."""
    (runs.parent / "conf" / "experiment").mkdir(parents=True)
    (runs.parent / "conf" / "experiment" / "mine.yaml").write_text(MINE)
    monkeypatch.chdir(runs.parent)
    for name in ("PYTHONPATH", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, environment()[name])
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    return runs


def recorded(folder):
    """The arguments of the last command that a run folder has written down."""
    line = (folder / "command.txt").read_text().splitlines()[-1]
    return shlex.split(line.split("  ", 1)[1])[1:]


@WAYS
def test_the_record_of_a_run_repeats_it_from_anywhere_with_settings_of_ones_own(here, tmp_path, monkeypatch, words):
    """A relative search path is Hydra's own, and holds from the same folder alone."""
    answer = decm("train", *words, *SETTINGS, *FAST)
    assert answer.code == 0, answer.said
    run = only(here / "mine")
    if not words[0].startswith("hydra."):
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
    answer = decm(*recorded(run), "--cfg", "job", "--resolve")
    assert answer.code == 0, answer.said
    assert settings(answer.out) == settings((run / "config.yaml").read_text())


@pytest.mark.slow
def test_the_line_to_paste_of_a_sweep_has_them_too(here):
    answer = decm("train", "-m", "--config-dir", "conf", *SETTINGS, *FAST, "seed=0", "hydra.verbose=false")
    assert answer.code == 0, answer.said
    sweep = only(here / "mine" / "multirun")
    (line,) = [line for line in (sweep / "sweep.md").read_text().splitlines() if line.startswith("    decm train")]
    assert f"--config-dir {here.parent / 'conf'}" in line
    for words in (shlex.split(line)[1:], recorded(sweep / "0")):
        answer = decm(*words, "--cfg", "job", "--resolve")
        assert answer.code == 0, answer.said
        assert settings(answer.out) == settings((sweep / "0" / "config.yaml").read_text())


@pytest.mark.slow
def test_the_record_of_a_job_of_a_kept_sweep_starts_that_job_alone(here):
    words = ["sweep=guidance", "teacher.guidance.scale=1.0", "teacher.guidance.eta_rms=null", "launcher=basic"]
    answer = decm("train", "--config-dir", "conf", *SETTINGS, *words, "evaluation.nfe=[1]")
    assert answer.code == 0, answer.said
    job = only(here / "mine" / "multirun") / "0"
    answer = decm(*recorded(job), "dry_run=false")
    assert answer.code == 0, answer.said
    (run,) = (here / "mine").glob("2*")
    assert results(run)["teacher"] == results(job)["teacher"]


@pytest.mark.slow
def test_jobs_of_two_processes_have_the_settings_of_the_command_line(here):
    answer = in_a_process("train", "-m", "--config-dir", "conf", *SETTINGS, *TWO, "evaluation.nfe=[1]", "seed=0")
    assert answer.code == 0, answer.said
    job = only(here / "mine" / "multirun") / "0"
    assert results(job)["experiment"] == "mine"
    assert len(metrics(job)) == 2
    assert recorded(job)[-2:] == ["--config-dir", str(here.parent / "conf")]


def test_folders_of_flags_are_made_absolute_and_stay_beside_their_flag(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["-cd", "a=b", "seed=1", "--config-path=c", "-m"]
    settled = absolute_folders(words)
    assert settled == ["-cd", f"{tmp_path}/a=b", "seed=1", f"--config-path={tmp_path}/c", "-m"]
    assert overrides_first(["decm", *settled]) == ["decm", "seed=1", *settled[:2], *settled[3:]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-cn", "mine"], "--config-dir"),
        (["--config-name=mine"], "--config-dir"),
        (["--experimental-rerun", "config.pickle"], "pickle"),
    ],
)
def test_flags_that_cannot_hold_for_jobs_or_read_pickles_are_refused_by_name(tmp_path, words, said):
    answer = decm("train", *words, f"runs={tmp_path}")
    assert answer.code == 2
    assert words[0].split("=")[0] in answer.err
    assert said in answer.err
    assert list(tmp_path.iterdir()) == []
