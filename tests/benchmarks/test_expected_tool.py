"""benchmarks/expected.py: from the runs of several seeds to a section that composes and holds them."""

import json
import math
import sys

import expected as tool
import pytest
import yaml

from decm.experiment.expected import build_expected, expected_curves
from decm.settings.composition import compose, plain
from decm.training.csv_logger import MetricsCSV

STEPS = {250: 4.0, 500: 1.0, 2500: 0.25}  # of decm_2d


def finished(folder, seed, factor, *overrides, steps=STEPS, experiment="decm_2d", metric="map_error/0_1"):
    """A run folder, written by hand: its metric is `factor` times that of STEPS."""
    folder.mkdir(parents=True)
    config = plain(compose("train", [f"experiment={experiment}", f"seed={seed}", *overrides]))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    logger = MetricsCSV(folder)
    for step, value in steps.items():
        logger.log_metrics({"loss/consistency": 1.0}, step=step - 1)
        logger.log_metrics({metric: factor * value, "fd/1": 1.0}, step=step)
    logger.save()
    results = {"experiment": experiment, "seed": seed, "student": {"1": 1.0}}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def run_tool(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["expected.py", *map(str, arguments)])
    tool.main()


@pytest.fixture
def runs(tmp_path):
    """Three seeds, at two depths, and a teacher beside them."""
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    (teacher / "config.yaml").write_text("name: teacher_digits\n")
    (teacher / "results.json").write_text(json.dumps({"experiment": "teacher_digits", "seed": 0}))
    finished(tmp_path / "a", 0, 0.9)
    finished(tmp_path / "multirun" / "b" / "1", 1, 1.0, "evaluation.every=250", steps={**STEPS, 750: 1.0})
    finished(tmp_path / "multirun" / "b" / "2", 2, 1 / 0.9)
    return tmp_path


def test_what_it_prints_composes_and_holds_its_own_runs(runs, monkeypatch, capsys):
    run_tool(monkeypatch, runs, "--metrics", "map_error/0_1", "--on", "a machine")
    text = capsys.readouterr().out
    assert "# measured on seeds 0, 1, 2, a machine: benchmarks/expected.py" in text
    (runs / "experiment").mkdir()
    mine = f"# @package _global_\ndefaults: [decm_2d, _self_]\n{text}"
    (runs / "experiment" / "mine.yaml").write_text(mine)
    cfg = compose("train", [f"hydra.searchpath=[file://{runs}]", "experiment=mine"])
    curve = next(curve for curve in expected_curves(cfg) if curve.metric == "map_error/0_1")
    assert len(build_expected(cfg, plain(cfg), None)) == 1
    assert list(curve.at) == [0.1, 0.2, 1.0]  # the steps that all have
    assert list(curve.value) == pytest.approx([4.0, 1.0, 0.25], rel=1e-3)
    for factor in (0.9, 1.0, 1 / 0.9):
        for step, value in STEPS.items():
            ratio = factor * value / curve(step / 2500)
            assert 1 / curve.tolerance < ratio < curve.tolerance


def test_the_tolerance_is_three_deviations_and_no_less_than_the_minimum(runs, monkeypatch, capsys):
    found = tool.read_runs([runs])
    spread = -math.log(0.9)  # the standard deviation of -d, 0, d is d
    assert tool.measure(found, "map_error/0_1", 1.0).tolerance == pytest.approx(math.exp(3 * spread), abs=0.01)
    assert tool.measure(found, "map_error/0_1", 1.5).tolerance == 1.5
    assert tool.measure(found, "fd/1").tolerance == tool.MINIMUM  # without a spread
    run_tool(monkeypatch, runs, "--metrics", "map_error/0_1,fd/1", "--minimum", "2")
    assert capsys.readouterr().out.count("tolerance: 2.0") == 2


@pytest.mark.parametrize(
    ("seed", "overrides", "said"),
    [
        (3, ["optimizer.lr=0.5"], "is not decm_2d as it is by default: optimizer.lr is 0.5, was 0.001"),
        (1, [], "both of seed 1"),
    ],
)
def test_a_run_that_does_not_belong_is_refused(runs, seed, overrides, said):
    finished(runs / "z", seed, 1.0, *overrides)
    with pytest.raises(ValueError, match=said):
        tool.read_runs([runs])


@pytest.mark.slow
def test_runs_of_two_experiments_or_one_seed_or_another_metric_are_refused(runs, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="1 finished runs below"):
        tool.read_runs([runs / "a"])
    with pytest.raises(ValueError, match="map_error/0_t was at no step evaluated"):
        tool.measure(tool.read_runs([runs]), "map_error/0_t")
    with pytest.raises(SystemExit, match="map_error/0_t was at no step evaluated"):
        run_tool(monkeypatch, runs)  # the default metrics of a ring
    finished(runs / "z", 3, 1.0, experiment="decm_digits")
    with pytest.raises(ValueError, match=r"is a run of decm_digits, .* of decm_2d"):
        tool.read_runs([runs])
