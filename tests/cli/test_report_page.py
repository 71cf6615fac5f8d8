"""Every run ends with its page, which can be drawn again at any time and whose failure costs nothing."""

import fcntl
import shutil

import pytest
import yaml

from commands import RING, TINY, decm, only, results, train
from decm.report.page import MOVING, PAGE
from decm.runs.locks import LOCK, in_use, locked


@pytest.fixture
def copied(finished, tmp_path):
    """A finished run's folder of one's own, without its page."""
    folder = shutil.copytree(finished.folder, tmp_path / "smoke" / "run")
    (folder / PAGE).unlink()
    return folder


def test_a_run_ends_with_its_page_and_says_where(finished):
    assert str(finished.folder / PAGE) in finished.answer.out
    text = (finished.folder / PAGE).read_text()
    value = results(finished.folder)["student"]["1"]
    assert f"{value:.3f}" in text
    assert "<h3>Gradient norm</h3>" in text


def test_the_command_is_written_down_each_time(finished, runs):
    command = (finished.folder / "command.txt").read_text()
    assert command.count("\n") == 1
    assert "decm train experiment=smoke max_steps=6" in command
    folder = shutil.copytree(finished.folder, runs / "smoke" / finished.folder.name)
    (folder / "results.json").unlink()
    assert train(runs, "resume=auto").code == 0
    first, second = (folder / "command.txt").read_text().splitlines()
    assert first in command
    assert second.endswith("resume=auto")


def test_report_false_draws_none(cached):
    assert train(cached, "teacher=none", "method=fm").code == 0
    assert not (only(cached / "smoke") / PAGE).exists()


def test_the_page_is_drawn_again_with_what_differs_from_the_experiment(finished, copied):
    answer = decm("report", f"path={copied}")
    assert answer.code == 0, answer.said
    assert answer.out.strip() == str(copied / PAGE)
    text = (copied / PAGE).read_text()
    assert "finished" in text
    for key, usual, here in (("network.hidden_size", "48", "24"), ("max_steps", "20", "6")):
        row = text.index(f"<code>{key}</code>")
        assert text.index(f"<code>{usual}</code>", row) < text.index(f"<code>{here}</code>", row) < row + 300


def test_an_unfinished_run_has_a_page_and_a_running_one_says_so(copied):
    (copied / "results.json").unlink()
    for state in ("unfinished", "running"):
        if state == "running":
            with locked(copied):
                assert decm("report", f"path={copied}").code == 0
        else:
            assert decm("report", f"path={copied}").code == 0
        assert f'<span class="state">{state}</span>' in (copied / PAGE).read_text()


def test_a_folder_that_another_has_locked_is_in_use(tmp_path):
    assert not in_use(tmp_path)
    with (tmp_path / LOCK).open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert in_use(tmp_path)
    assert not in_use(tmp_path)


@pytest.mark.slow
def test_a_page_that_cannot_be_drawn_loses_no_results(finished, runs):
    """What the page trips over: a record of an incident that is cut off."""
    folder = shutil.copytree(finished.folder, runs / "smoke" / finished.folder.name)
    for name in ("results.json", PAGE):
        (folder / name).unlink()
    (folder / "incidents").mkdir()
    (folder / "incidents" / "step_00000001_seed_0_rank_0.json").write_text('{"step": 1')
    answer = train(runs, "resume=auto", "report=true")
    assert answer.code == 0
    assert f"The page of {folder} could not be drawn (ValueError" in answer.out
    assert f"decm report path={folder} tries again" in answer.out
    assert not (folder / PAGE).exists()
    assert results(folder)["student"] == results(finished.folder)["student"]
    assert decm("report", f"path={folder}").code == 2


@pytest.mark.slow
def test_in_two_dimensions_the_page_has_the_moving_picture(tmp_path):
    answer = train(tmp_path, "report=true", settings=[*TINY, *RING])
    assert answer.code == 0, answer.said
    folder = only(tmp_path / "decm_2d")
    assert (folder / MOVING).is_file()
    text = (folder / PAGE).read_text()
    assert "data:image/webp;base64," in text
    assert "The flow map, learned and exact" in text


def test_runs_are_compared_in_one_file(finished, copied, tmp_path):
    out = tmp_path / "deep" / "compare.html"
    answer = decm("report", f"runs=[{finished.folder},{copied}]", f"out={out}")
    assert answer.code == 0, answer.said
    assert "2 runs compared" in out.read_text()
    assert not (copied / PAGE).exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "both unset"),
        (["path=a", "runs=[b,c]"], "both set"),
        (["path={tmp}"], "is not a run folder"),
        (["runs=[{run}]"], "expected two runs or more"),
        (["runs=[{run},{run}]"], "a run twice"),
        (["path={run}", "colour=red"], "Could not override 'colour'"),
    ],
)
def test_mistakes_are_told_in_one_sentence(copied, tmp_path, arguments, said):
    answer = decm("report", *(word.format(run=copied, tmp=tmp_path) for word in arguments))
    assert answer.code == 2
    assert said in answer.err
    assert "Traceback" not in answer.said


def test_damaged_results_are_named(copied):
    (copied / "results.json").write_text("{")
    answer = decm("report", f"path={copied}")
    assert answer.code == 2
    assert f"{copied / 'results.json'} is damaged" in answer.err


@pytest.mark.parametrize("out", ["precious", "precious/table.md", "runs.txt"])
def test_a_comparison_replaces_no_folder_and_no_file_that_is_no_page(finished, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "table.md").write_text("kept")
    runs = f"runs=[{finished.folder},{shutil.copytree(finished.folder, tmp_path / 'other')}]"
    answer = decm("report", runs, f"out={out}")
    assert answer.code == 2
    assert f"out={out} is no page" in answer.err
    assert (tmp_path / "precious" / "table.md").read_text() == "kept"
    assert decm("report", runs, "out=precious/new.html").code == 0


def test_the_page_of_someone_elses_run_calls_nothing_that_its_settings_name(copied, tmp_path):
    """A nested call stands where a number is expected; the page is drawn without the number of parameters."""
    prey = tmp_path / "prey"
    call = {"_target_": "decm.checkpoints.durable.write_text", "path": str(prey), "text": "x"}
    config = yaml.safe_load((copied / "config.yaml").read_text())
    config["network"]["input_size"] = call
    (copied / "config.yaml").write_text(yaml.safe_dump(config))
    assert decm("report", f"path={copied}").code == 0
    assert not prey.exists()
    assert (copied / PAGE).is_file()
