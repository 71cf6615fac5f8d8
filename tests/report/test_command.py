"""The command on a page: the one that was written down, else one that gives the same settings, else none."""

import shlex

import pytest

from decm.report.command import rebuilt_command
from decm.report.page import page
from decm.runs.run import Run, flat
from decm.settings.composition import compose, plain
from run_folders import CONFIG, make_run


def test_the_command_is_the_one_that_was_written_down_else_it_is_rebuilt(tmp_path):
    config = {**CONFIG, "optimizer": {**CONFIG["optimizer"], "lr": 0.01}, "objective": {}}
    run = make_run(tmp_path / "a", config)
    rebuilt = rebuilt_command(run)
    assert rebuilt == "decm train experiment=toy '~objective.consistency' optimizer.lr=0.01"
    assert "the command itself was not written down" in page(run)
    (run.folder / "command.txt").write_text("2026-01-01 00:00:00  decm train experiment=toy optimizer.lr=0.01\n")
    text = page(run)
    assert "2026-01-01 00:00:00  decm train experiment=toy optimizer.lr=0.01" in text
    assert "not written down" not in text


@pytest.mark.parametrize(
    "overrides",
    [
        [], ["objective=fm_cd"], ["optimizer.lr=1e-5", "evaluation.nfe=[50,1]", "seed=2"],
        ["teacher=none"], ["warm_start='/a b/true'", "budget=1e6"], ["experiment=decm_2d", "objective=fm"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_rebuilt_command_gives_the_settings_of_the_run(tmp_path, overrides):
    """Composed again, key by key."""
    experiment = "decm_2d" if "experiment=decm_2d" in overrides else "decm_digits"
    usual, config = (plain(compose("train", [f"experiment={experiment}", *more])) for more in ([], overrides))
    command = rebuilt_command(Run(tmp_path, config, usual, None, "finished"))
    assert command.startswith(f"decm train experiment={experiment}")
    assert flat(plain(compose("train", shlex.split(command)[2:]))) == flat(config)


@pytest.mark.parametrize(
    "changes",
    [
        {"later": 3}, {"optimizer": {"lr": 0.001}}, {"objective": {"consistency": {"weight": 5.0}}},
        {"objective": {"mean_flow": {"weight": 1.0}}},
        {"name": "toy", "seed": {"a": [{}]}},
    ],
    ids=str,
)  # fmt: skip
def test_where_no_override_gives_a_setting_there_is_no_command(tmp_path, changes):
    run = Run(tmp_path, {**CONFIG, **changes}, CONFIG, None, "finished")
    assert rebuilt_command(run) == ""
    assert "Unknown." in page(run)


def test_without_its_experiment_a_run_has_no_command(tmp_path):
    assert rebuilt_command(Run(tmp_path, CONFIG, {}, None, "finished")) == ""
