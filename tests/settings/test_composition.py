"""Every option composes, presets have their numbers, and what does not fit fails at composition by name."""

import functools
import re

import pytest
import torch
import yaml
from hydra.errors import ConfigCompositionException
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from commands import ROOT, decm
from decm.checkpoints.trust import RENAMED
from decm.flow.exact import GaussianFlow
from decm.objectives.base import Segment
from decm.settings.composition import compose, from_plain
from decm.training.callbacks.method.trajectories import FromNoise
from helpers import largest, no_labels, random_states, random_times, unguided

CONF = ROOT / "conf"
GROUPS = {path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in CONF.iterdir() if path.is_dir()}
EXPERIMENTS, METHODS = GROUPS["experiment"], GROUPS["method"]
EXACT = GaussianFlow(0.7, 0.4)


def test_the_groups_are_those_that_the_readme_names():
    wanted = {"data", "network", "method", "teacher", "trainer", "logger", "evaluation", "experiment"}
    assert wanted <= set(GROUPS)
    assert all(GROUPS[group] for group in wanted)
    assert {"decm_digits", "teacher_digits", "decm_2d", "smoke"} <= set(EXPERIMENTS)
    methods = {"facm", "mean_flow", "improved_mean_flow", "scm", "ect", "shortcut", "alpha_flow"}
    assert {"decm", "fm", "cd", "fm_cd", "fm_n2n", *methods} <= set(METHODS)
    assert {"auto", "checkpoint", "exact", "none"} <= set(GROUPS["teacher"])


@functools.cache
def composed(*overrides):
    """A configuration of `decm train`, not to be changed."""
    return compose("train", overrides)


def test_every_option_has_a_valid_file_name():
    """Lower case letters, digits and underscores, as they stand in folder names."""
    assert [name for group in GROUPS.values() for name in group if not re.fullmatch(r"[a-z0-9_]+", name)] == []


@pytest.mark.parametrize("number", range(max(len(GROUPS[group]) for group in GROUPS if group != "experiment")))
def test_every_option_composes(number):
    """The options of all groups side by side, the shorter groups' again and again."""
    chosen = {group: options[number % len(options)] for group, options in GROUPS.items() if group != "experiment"}
    cfg = composed(*(f"{group}={option}" for group, option in chosen.items()))
    assert all(group in ("sweep", "launcher") or cfg[group] is not None for group in chosen)
    assert OmegaConf.missing_keys(cfg) <= {"data.path", "teacher.path", "evaluation.protocol.reference"}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_with_the_segments_of_any_method(experiment):
    cfg = composed(f"experiment={experiment}")
    assert OmegaConf.missing_keys(cfg) <= {"data.path", "teacher.path", "evaluation.protocol.reference"}
    assert list(composed(f"experiment={experiment}", "method=fm").method) == ["instantaneous"]


def listed(method):
    """The segments that the YAML of a method names."""
    found = OmegaConf.load(CONF / "method" / f"{method}.yaml")
    shared = [str(entry).rpartition(".")[2] for entry in found.get("defaults", []) if "@method." in str(entry)]
    return {*shared, *found.get("method", {})}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_its_segments(method):
    """The file lists them; nothing that the experiment chooses adds or removes one."""
    cfg = composed("experiment=decm_2d", f"method={method}")
    assert set(cfg.method) == listed(method)
    assert {node.name for node in cfg.method.values()} == listed(method)


def test_removing_one_entry_removes_one_loss():
    cfg = compose("train", ["experiment=decm_digits", "~method.noise_to_noisy"])
    assert list(cfg.method) == ["instantaneous", "consistency"]


def law_gaps(trajectory, flow, progress=1.0):
    """(tangent, distance of target and prediction) on the trajectory's own segments, [64, ...]; float64."""
    t = random_times(64, 0.02, 0.98)
    start, end = trajectory.ends(t, torch.arange(64), 0, 0)
    x = EXACT.flow_map(random_states(64, (2, 1, 1)), torch.zeros_like(start), start)
    segment, field = (
        Segment(x=x, start=start, end=end, y=no_labels(64), progress=progress, v=None, student=flow, average=flow),
        unguided(EXACT),
    )
    rows = trajectory.objective.ask(segment, field)
    F, dF = flow(rows.x, rows.t, rows.s), None
    if rows.tangents is not None:
        F, dF = torch.func.jvp(lambda x, t, s: flow(x, t, s), (rows.x, rows.t, rows.s), rows.tangents)
    aim = trajectory.objective.aim(segment, F, dF, field)
    return aim.tangent, aim.target - F


def law_gap(trajectory, flow):
    return max(map(largest, law_gaps(trajectory, flow)))


def steps_of(trajectory, progress):
    """The step sizes of a discrete law [64], at the same times as law_gaps has; None of a law that has none."""
    if not hasattr(trajectory.objective, "order"):
        return None
    t = random_times(64, 0.02, 0.98)
    return trajectory.objective.step(trajectory.ends(t, torch.arange(64), 0, 0)[0], progress)


def off(x, t, s, y=None):
    """A flow map that is off by a tenth."""
    return 1.1 * EXACT(x, t, s)


@pytest.mark.parametrize("experiment", ["decm_digits", "decm_2d", "decm_imagenet"])
@pytest.mark.parametrize("method", METHODS)
def test_every_law_holds_at_the_exact_flow_with_every_experiments_numbers(method, experiment):
    """A new method is found here by itself; a flow that is off by a tenth does not pass.

    Of a law that is still discrete at the end of its schedule, the gap falls with its step at the stated order.
    """
    for name, node in composed(f"experiment={experiment}", f"method={method}").method.items():
        trajectory = instantiate(node)
        last = steps_of(trajectory, 1.0)
        ends_discrete = last is not None and largest(last) > 0
        if not ends_discrete:
            assert law_gap(trajectory, EXACT) < 1e-10, name
        assert law_gap(trajectory, off) > 1e-2 * (largest(last) if ends_discrete else 1), name


@pytest.mark.parametrize("method", ["ect", "alpha_flow"])
def test_a_discrete_law_meets_the_exact_flow_at_its_order(method):
    """Sample by sample, at two places of its schedule; the gap of a wrong field does not fall so."""
    (node,) = composed("experiment=decm_digits", f"method={method}").method.values()
    trajectory, early, late = instantiate(node), 0.6, 0.7
    fell = (steps_of(trajectory, early) / steps_of(trajectory, late)).log()
    assert float(fell.min()) > 0.5

    def order(flow):
        gaps = [law_gaps(trajectory, flow, progress)[1].flatten(1).norm(dim=1) for progress in (early, late)]
        moving = gaps[0] > 1e-6  # a segment of no length has no gap
        return float(((gaps[0] / gaps[1]).log() / fell)[moving].median())

    assert order(EXACT) == pytest.approx(trajectory.objective.order, abs=0.25)
    assert order(off) < 1.5


def test_every_discrete_law_is_tried_for_its_order():
    discrete = {
        name
        for name in METHODS
        for node in composed("experiment=decm_digits", f"method={name}").method.values()
        if hasattr(instantiate(node).objective, "order")
    }
    assert discrete == {"ect", "alpha_flow"}


@pytest.mark.parametrize(
    ("experiment", "end", "start", "every", "fraction", "decay"),
    [
        ("decm_digits", 1.0, 0.5, 1, 0.33, 1200),
        ("decm_2d", 1.0, 0.0, 1, 1.0, 2500),
        ("decm_imagenet", 1.0, 0.5, 3, 1.0, 20_000),  # DE-CM Sec. 4.1, Tab. 6 and 7
    ],
)
def test_experiments_have_their_numbers_of_n2n(experiment, end, start, every, fraction, decay):
    trajectory = instantiate(composed(f"experiment={experiment}", "method=decm").method.noise_to_noisy)
    assert isinstance(trajectory, FromNoise)
    assert (trajectory.objective.end, trajectory.objective.start) == (end, start)
    assert (trajectory.every, trajectory.fraction, trajectory.decay_steps) == (every, fraction, decay)
    assert trajectory.r_max == 0.1


def test_r_decays_over_the_run_where_nothing_else_is_said():
    assert compose("train", ["experiment=decm_digits", "max_steps=123"]).method.noise_to_noisy.decay_steps == 123


@pytest.mark.parametrize("verb", ["evaluate", "sample"])
def test_the_other_verbs_check_keys_and_types_too(verb):
    for override, said in (("foo=1", "Could not override 'foo'"), ("nfe=abc", "full_key: nfe")):
        answer = decm(verb, "checkpoint=x", override)
        assert answer.code == 2
        assert said in answer.err


@pytest.mark.parametrize(("group", "option"), [("method", "decm2"), ("experiment", "foo"), ("network", "vit")])
def test_an_unknown_option_fails_with_the_options_that_there_are(group, option):
    answer = decm("train", f"{group}={option}")
    assert answer.code == 2
    assert f"Could not find '{group}/{option}'" in answer.err
    assert all(name in answer.err for name in GROUPS[group])


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf" / "sweep").glob("*.yaml")))
def test_every_setting_of_a_kept_sweep_is_one_that_there_is(name):
    swept = yaml.safe_load((ROOT / "conf" / "sweep" / f"{name}.yaml").read_text())["hydra"]["sweeper"]["params"]
    cfg = compose("train", ["experiment=decm_digits", f"sweep={name}"])
    assert all(key.rpartition(".")[2] in OmegaConf.select(cfg, key.rpartition(".")[0]) for key in swept)
    with pytest.raises(ConfigCompositionException):
        compose("train", ["experiment=decm_digits", f"sweep={name}", f"{next(iter(swept))}x=1"])


@pytest.mark.parametrize("earlier", RENAMED)
def test_a_constructor_that_has_another_name_by_now_is_found_from_the_settings_of_an_earlier_run(earlier):
    with pytest.raises((ImportError, AttributeError, ValueError)):
        get_object(earlier)
    assert callable(get_object(from_plain({"protocol": {"_target_": earlier}}).protocol._target_))
