"""Which runs are held against the expected curves of their experiment."""

import pytest
from comparing.plan import identity

from commands import RING, ROOT, TINY, decm, metrics, only, results, train
from decm.experiment.expected import build_expected, deviations, expected_curves
from decm.runs.folders import same_settings
from decm.settings.composition import compose, plain

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
MEASURED = ["decm_2d", "decm_digits"]
CURVE = "{fd/1: {at: [0.5, 1.0], value: [1e-3, 1e-3], tolerance: 1.5}}"
WHOLE_SMOKE = [
    "experiment=smoke",
    "trainer=cpu",
    "logger=csv",
    "evaluation.nfe=[1]",
    "evaluation.num_samples=60",
    "evaluation.preview_every=0",
]


def composed(*overrides):
    cfg = compose("train", overrides)
    return cfg, plain(cfg)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_has_curves_of_its_own_or_none(experiment):
    """Those that it has are of what it evaluates in the loop, up to its end."""
    cfg, settings = composed(f"experiment={experiment}")
    curves = expected_curves(cfg)
    assert bool(curves) == (experiment in MEASURED)
    if curves:
        assert cfg.expected.experiment == experiment
        assert deviations(experiment, settings) == []
        assert cfg.max_steps % cfg.evaluation.every == 0
        evaluated = {*(f"fd/{nfe}" for nfe in cfg.evaluation.nfe), "map_error/0_1", "map_error/0_t"}
        assert {curve.metric for curve in curves} <= evaluated
        assert all(curve.at[-1] == 1 for curve in curves)
        assert all(curve(cfg.evaluation.every / cfg.max_steps) for curve in curves)


@pytest.mark.parametrize(
    "override",
    [
        "seed=7",
        "runs=elsewhere",
        "logger=csv",
        "name=mine",
        "trainer.accelerator=cpu",
        "evaluation.every=100",
        "evaluation.num_samples=50",
        "evaluation.nfe=[1,8]",
        "jvp=split",
        "accumulate=4",
        "snapshots.every=10",
        "resume=auto",
    ],
)
def test_what_changes_no_figure_leaves_the_curve_in_force(override):
    cfg, settings = composed("experiment=decm_digits", override)
    assert len(build_expected(cfg, settings, None)) == 1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["optimizer.lr=1e-3"], "optimizer.lr is 0.001, was 0.002)"),
        (["max_steps=2400"], "max_steps is 2400, was 1200; and "),
        (["method=fm"], "method.consistency is None, was set; and "),
        (["method.consistency.weight=2"], "method.consistency.weight is 2.0, was 1.0)"),
        (["evaluation.every_num_samples=1000"], "evaluation.every_num_samples is 1000, was 500)"),
        (["evaluation.every=0"], "evaluation.every is 0)"),
    ],
)
def test_other_settings_switch_it_off_with_the_reason(overrides, said, capsys):
    cfg, settings = composed("experiment=decm_digits", *overrides)
    assert build_expected(cfg, settings, None) == []
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"expected curve: not compared ({said}")


def test_an_experiment_without_curves_says_nothing(capsys):
    assert build_expected(*composed("experiment=smoke", "optimizer.lr=1"), None) == []
    assert build_expected(*composed("experiment=decm_digits", "expected.experiment=null"), None) == []
    assert capsys.readouterr().out == ""


def test_the_curves_are_no_setting_of_the_work_or_of_a_compared_job():
    with_curves = composed("experiment=decm_digits")[1]
    older = {key: value for key, value in with_curves.items() if key != "expected"}
    assert same_settings(with_curves, older)
    assert not same_settings(with_curves, {**older, "max_steps": 1})
    assert identity(with_curves, tuned=False) == identity(older, tuned=False)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (f"+expected.curves={CURVE.replace('0.5, 1.0', '1.0, 0.5')}", "expected.curves.fd/1.at=[1.0, 0.5]"),
        (f"+expected.curves={CURVE.replace('1.5', '0.5')}", "expected.curves.fd/1.tolerance=0.5"),
        ("expected.experiment=foo", "expected.experiment=foo; expected the name of an experiment"),
    ],
)
def test_a_malformed_section_is_refused_before_anything_is_made(section, said, tmp_path):
    answer = train(tmp_path / "runs", "expected.experiment=decm_digits", section, settings=[*TINY, "experiment=smoke"])
    assert (answer.code, "Traceback" in answer.said) == (2, False)
    assert said in answer.err
    assert not (tmp_path / "runs").exists()


def test_an_experiment_that_is_named_without_curves_is_refused(tmp_path):
    answer = train(tmp_path / "runs", "expected.experiment=teacher_smoke", settings=["experiment=teacher_smoke"])
    assert answer.code == 2
    assert "expected.curves is empty" in answer.err
    assert not (tmp_path / "runs").exists()


def test_a_misspelt_key_fails_at_composition():
    answer = decm("train", "experiment=decm_2d", f"+expected.curves={CURVE.replace('tolerance', 'tol')}")
    assert answer.code == 2
    assert "tol" in answer.err


@pytest.mark.slow
def test_a_run_tells_how_it_came_out(cached):
    """A whole run of an experiment, against curves that nothing can reach."""
    section = ["expected.experiment=smoke", f"+expected.curves={CURVE}"]
    answer = train(cached, settings=[*WHOLE_SMOKE, *section])
    assert answer.code == 0, answer.said
    folder = only(cached / "smoke")
    left = [line for line in answer.out.splitlines() if line.endswith("the run has left its expected curve.")]
    assert len(left) == 1
    assert " at step 10 of 20, expected 0.000667 to 0.0015: " in left[0]
    assert "Expected curve: the run left it: fd/1 was above it at 2 of 2 evaluations" in answer.out
    rows = metrics(folder)
    ratio = float(rows[20]["expected/fd/1"])
    assert ratio == pytest.approx(float(rows[20]["fd/1"]) / 1e-3)
    assert results(folder)["expected"] == {"fd/1": {"ratio_at_end": pytest.approx(ratio), "inside": False}}


def test_a_run_with_other_settings_says_once_that_it_is_not_compared(tmp_path):
    settings = [*TINY, *RING, "evaluation.every=3", "evaluation.every_num_samples=50", "evaluation.every_nfe=[2]"]
    answer = train(tmp_path, settings=settings)
    assert answer.code == 0, answer.said
    in_loop = [name for name in metrics(only(tmp_path / "decm_2d"))[3] if name.startswith("fd/")]
    assert (in_loop, list(results(only(tmp_path / "decm_2d"))["student"])) == (["fd/2"], ["1", "2"])
    said = [line for line in answer.out.splitlines() if "xpected curve" in line]
    assert len(said) == 1
    assert said[0].startswith("expected curve: not compared (max_steps is 6, was 2500; and ")
    assert "expected" not in results(only(tmp_path / "decm_2d"))


def test_an_experiment_that_inherits_curves_is_not_held_against_them(capsys):
    """Its settings are compared with those of the other experiment, not with its own defaults."""
    cfg = compose("train", ["experiment=smoke"])
    cfg.expected = compose("train", ["experiment=decm_2d"]).expected
    assert build_expected(cfg, plain(cfg), None) == []
    assert "not compared (max_steps is 20, was 2500" in capsys.readouterr().out
