"""Every option composes, presets have their numbers, and what does not fit fails at composition by name."""

import functools
import re

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from commands import ROOT, decm
from decm.experiment.build import build_network
from decm.flow.exact import GaussianFlow
from decm.flow.velocity import UnguidedVelocity
from decm.objectives.base import Segment
from decm.settings.composition import compose
from decm.training.callbacks.method.trajectories import FromNoise
from helpers import largest, no_labels, random_states, random_times

CONF = ROOT / "conf"
GROUPS = {path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in CONF.iterdir() if path.is_dir()}
EXPERIMENTS, OBJECTIVES, SEGMENTS = GROUPS["experiment"], GROUPS["objective"], GROUPS["segment"]
EXACT = GaussianFlow(0.7, 0.4)


def test_the_groups_are_those_that_the_readme_names():
    wanted = {"data", "network", "segment", "objective", "teacher", "trainer", "logger", "evaluation", "experiment"}
    assert wanted <= set(GROUPS)
    assert all(GROUPS[group] for group in wanted)
    assert {"decm_digits", "teacher_digits", "decm_2d", "smoke"} <= set(EXPERIMENTS)
    methods = {"facm", "mean_flow", "improved_mean_flow", "scm", "ect", "shortcut", "alpha_flow"}
    assert {"decm", "fm", "cd", "fm_cd", "fm_n2n", *methods} <= set(OBJECTIVES)
    assert {"digits", "twod", "paper", "paper_eq15"} <= set(SEGMENTS)
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
    assert OmegaConf.missing_keys(cfg) <= {"data.path", "teacher.path", "evaluation.bench.reference"}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_with_the_segments_of_any_objective(experiment):
    cfg = composed(f"experiment={experiment}")
    assert OmegaConf.missing_keys(cfg) <= {"data.path", "teacher.path", "evaluation.bench.reference"}
    assert list(composed(f"experiment={experiment}", "objective=fm").objective) == ["instantaneous"]


@pytest.mark.parametrize("network", GROUPS["network"])
def test_every_network_option_is_a_network(network):
    """Without memory for its weights; the largest has 1.6 billion."""
    cfg = composed(f"network={network}")
    with torch.device("meta"):
        net = build_network(cfg.network, 0)
    assert len(net.shape) == 3
    assert net.num_classes == cfg.network.num_classes


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_is_its_segments(objective):
    """The file lists the segments; nothing that the experiment chooses adds or removes one."""
    listed = set(OmegaConf.load(CONF / "objective" / f"{objective}.yaml").objective)
    cfg = composed("experiment=decm_2d", f"objective={objective}")
    assert set(cfg.objective) == listed
    assert {node.name for node in cfg.objective.values()} == listed


def test_removing_one_entry_removes_one_loss():
    cfg = compose("train", ["experiment=decm_digits", "~objective.noise_to_noisy"])
    assert list(cfg.objective) == ["instantaneous", "consistency"]


def law_gaps(trajectory, flow, ramp=1.0):
    """(tangent, distance of target and prediction) on the trajectory's own segments, [64, ...]; float64."""
    t = random_times(64, 0.02, 0.98)
    start, end = trajectory.ends(t, torch.arange(64), 0, 0)
    x = EXACT.flow_map(random_states(64, (2, 1, 1)), torch.zeros_like(start), start)
    segment, field = Segment(x, start, end, no_labels(64), ramp, None, flow, flow), UnguidedVelocity(EXACT)
    rows = trajectory.objective.ask(segment, field)
    F, dF = flow(rows.x, rows.t, rows.s), None
    if rows.tangents is not None:
        F, dF = torch.func.jvp(lambda x, t, s: flow(x, t, s), (rows.x, rows.t, rows.s), rows.tangents)
    aim = trajectory.objective.aim(segment, F, dF, field)
    return aim.tangent, aim.target - F


def law_gap(trajectory, flow):
    return max(map(largest, law_gaps(trajectory, flow)))


def steps_of(trajectory, ramp):
    """The step sizes of a discrete law [64], at the same times as law_gaps has; None of a law that has none."""
    if not hasattr(trajectory.objective, "order"):
        return None
    t = random_times(64, 0.02, 0.98)
    return trajectory.objective.step(trajectory.ends(t, torch.arange(64), 0, 0)[0], ramp)


def off(x, t, s, y=None):
    """A flow map that is off by a tenth."""
    return 1.1 * EXACT(x, t, s)


@pytest.mark.parametrize("segment", SEGMENTS)
def test_every_law_holds_at_the_exact_flow_with_every_segments_numbers(segment):
    """A new segment is found here by itself; a flow that is off by a tenth does not pass.

    Of a law that is still discrete at the end of its schedule, the gap falls with its step at the stated order.
    """
    cfg = composed(f"segment={segment}")
    used = {
        str(value).removeprefix("${segment.").removesuffix("}")
        for name in OBJECTIVES
        for value in OmegaConf.to_container(OmegaConf.load(CONF / "objective" / f"{name}.yaml").objective).values()
    }
    assert used == set(cfg.segment)
    for name, node in cfg.segment.items():
        trajectory = instantiate(node)
        last = steps_of(trajectory, 1.0)
        ends_discrete = last is not None and largest(last) > 0
        if not ends_discrete:
            assert law_gap(trajectory, EXACT) < 1e-10, name
        assert law_gap(trajectory, off) > 1e-2 * (largest(last) if ends_discrete else 1), name


@pytest.mark.parametrize("objective", ["ect", "alpha_flow"])
def test_a_discrete_law_meets_the_exact_flow_at_its_order(objective):
    """Sample by sample, at two places of its schedule; the gap of a wrong field does not fall so."""
    (node,) = composed(f"objective={objective}").objective.values()
    trajectory, early, late = instantiate(node), 0.6, 0.7
    fell = (steps_of(trajectory, early) / steps_of(trajectory, late)).log()
    assert float(fell.min()) > 0.5

    def order(flow):
        gaps = [law_gaps(trajectory, flow, ramp)[1].flatten(1).norm(dim=1) for ramp in (early, late)]
        moving = gaps[0] > 1e-6  # a segment of no length has no gap
        return float(((gaps[0] / gaps[1]).log() / fell)[moving].median())

    assert order(EXACT) == pytest.approx(trajectory.objective.order, abs=0.25)
    assert order(off) < 1.5


def test_every_discrete_law_is_tried_for_its_order():
    segments = composed("experiment=decm_digits").segment
    discrete = {name for name, node in segments.items() if hasattr(instantiate(node).objective, "order")}
    assert discrete == {"discrete", "alpha_flow"}  # of ect and alpha_flow


def n2n(segment):
    cfg = composed("objective=decm", f"segment={segment}").objective.noise_to_noisy
    return cfg, instantiate(cfg)


@pytest.mark.parametrize(
    ("segment", "end", "start"),
    [("paper", 1.0, 0.5), ("paper_eq15", 0.5, 1.0), ("digits", 1.0, 0.5), ("twod", 1.0, 0.0)],
)
def test_presets_of_n2n_have_their_weights(segment, end, start):
    """`digits` takes those of `paper`, and `twod` is `end_only`."""
    _, trajectory = n2n(segment)
    assert isinstance(trajectory, FromNoise)
    assert (trajectory.objective.end, trajectory.objective.start) == (end, start)


@pytest.mark.parametrize("segment", ["paper", "paper_eq15"])
def test_the_papers_schedule_is_every_third_step_with_r_from_a_tenth(segment):
    _, trajectory = n2n(segment)
    assert (trajectory.every, trajectory.fraction, trajectory.r_max, trajectory.decay_steps) == (3, 1.0, 0.1, 20_000)


def test_r_decays_over_the_run_where_nothing_else_is_said():
    assert compose("train", ["experiment=decm_digits", "max_steps=123"]).objective.noise_to_noisy.decay_steps == 123


@pytest.mark.parametrize("verb", ["evaluate", "sample"])
def test_the_other_verbs_check_keys_and_types_too(verb):
    for override, said in (("foo=1", "Could not override 'foo'"), ("nfe=abc", "full_key: nfe")):
        answer = decm(verb, "checkpoint=x", override)
        assert answer.code == 2
        assert said in answer.err


@pytest.mark.parametrize(("group", "option"), [("objective", "decm2"), ("experiment", "foo"), ("network", "vit")])
def test_an_unknown_option_fails_with_the_options_that_there_are(group, option):
    answer = decm("train", f"{group}={option}")
    assert answer.code == 2
    assert f"Could not find '{group}/{option}'" in answer.err
    assert all(name in answer.err for name in GROUPS[group])
