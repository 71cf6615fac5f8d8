"""Every option composes, presets have their numbers, and what does not fit fails at composition by name."""

import re

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, ValidationError

from commands import ROOT, decm
from decm.cli.build import build_network
from decm.cli.config import compose
from decm.flow.exact import GaussianFlow
from decm.flow.velocity import UnguidedVelocity
from decm.objectives.base import Segment
from decm.training.callbacks.trajectories import FromNoise
from helpers import largest, no_labels, random_states, random_times

CONF = ROOT / "conf"
GROUPS = {path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in CONF.iterdir() if path.is_dir()}
EXPERIMENTS, OBJECTIVES, SEGMENTS = GROUPS["experiment"], GROUPS["objective"], GROUPS["segment"]
EXACT = GaussianFlow(0.7, 0.4)
# Settings that hold anything: devices (a number, a list or auto), maps by NFE, and a map of times or none.
FREE = {"trainer.devices", "evaluation.samplers", "times"}


def test_the_groups_are_those_that_the_readme_names():
    wanted = {"data", "network", "segment", "objective", "teacher", "trainer", "logger", "evaluation", "experiment"}
    assert wanted <= set(GROUPS)
    assert all(GROUPS[group] for group in wanted)
    assert {"decm_digits", "teacher_digits", "decm_2d", "smoke"} <= set(EXPERIMENTS)
    methods = {"facm", "mean_flow", "improved_mean_flow", "scm", "ect", "shortcut", "alpha_flow"}
    assert {"decm", "fm", "cd", "fm_cd", "fm_n2n", *methods} <= set(OBJECTIVES)
    assert {"digits", "twod", "paper", "paper_eq15"} <= set(SEGMENTS)
    assert {"auto", "checkpoint", "exact", "none"} <= set(GROUPS["teacher"])


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in GROUPS for option in GROUPS[group]])
def test_every_option_composes_and_has_a_valid_file_name(group, option):
    """Names in lower case letters, digits and underscores, as they stand in folder names."""
    assert re.fullmatch(r"[a-z0-9_]+", option)
    cfg = compose("train", [f"{group}={option}"])
    assert group in ("experiment", "sweep", "launcher") or cfg[group] is not None
    assert OmegaConf.missing_keys(cfg) <= {"data.path", "teacher.path", "evaluation.bench.reference"}


@pytest.mark.parametrize("network", GROUPS["network"])
def test_every_network_option_is_a_network(network):
    """Without memory for its weights; the largest has 1.6 billion."""
    cfg = compose("train", [f"network={network}"])
    with torch.device("meta"):
        net = build_network(cfg.network, 0)
    assert len(net.shape) == 3
    assert net.num_classes == cfg.network.num_classes


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_is_its_segments_under_any_experiment(experiment, objective):
    """The file lists the segments; nothing that an experiment chooses adds or removes one."""
    listed = set(OmegaConf.load(CONF / "objective" / f"{objective}.yaml").objective)
    cfg = compose("train", [f"experiment={experiment}", f"objective={objective}"])
    assert set(cfg.objective) == listed
    assert {node.name for node in cfg.objective.values()} == listed


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_flow_matching_is_one_segment_under_any_experiment(experiment):
    assert list(compose("train", [f"experiment={experiment}", "objective=fm"]).objective) == ["instantaneous"]


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
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_holds_at_the_exact_flow_with_every_segments_numbers(objective, segment):
    """A new method's YAML is found here by itself; a flow that is off by a tenth does not pass.

    Of a law that is still discrete at the end of its schedule, the gap falls with its step at the stated order.
    """
    cfg = compose("train", [f"objective={objective}", f"segment={segment}"])
    for node in cfg.objective.values():
        trajectory = instantiate(node)
        last = steps_of(trajectory, 1.0)
        ends_discrete = last is not None and largest(last) > 0
        if not ends_discrete:
            assert law_gap(trajectory, EXACT) < 1e-10, node.name
        assert law_gap(trajectory, off) > 1e-2 * (largest(last) if ends_discrete else 1), node.name


@pytest.mark.parametrize("objective", ["ect", "alpha_flow"])
def test_a_discrete_law_meets_the_exact_flow_at_its_order(objective):
    """Sample by sample, at two places of its schedule; the gap of a wrong field does not fall so."""
    (node,) = compose("train", [f"objective={objective}"]).objective.values()
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
    discrete = {
        name for name in OBJECTIVES for node in compose("train", [f"objective={name}"]).objective.values()
        if hasattr(instantiate(node).objective, "order")
    }  # fmt: skip
    assert discrete == {"ect", "alpha_flow"}


def n2n(segment):
    cfg = compose("train", ["objective=decm", f"segment={segment}"]).objective.noise_to_noisy
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


def leaves(cfg, prefix=""):
    for key in cfg:
        if OmegaConf.is_interpolation(cfg, key) and prefix == "objective.":
            continue  # an objective's numbers live in its segment
        value = cfg[key]
        if isinstance(value, DictConfig):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def numbers(cfg):
    """Every setting that is a number, a switch or a list."""
    return [key for key, value in leaves(cfg) if not isinstance(value, str | None) and key not in FREE]


@pytest.mark.parametrize("experiment", ["decm_digits", "decm_2d"])
def test_every_number_switch_and_list_knows_its_type(experiment):
    cfg = compose("train", [f"experiment={experiment}"])
    assert len(numbers(cfg)) > 60
    for key in numbers(cfg):
        with pytest.raises(ValidationError, match=re.escape(f"full_key: {key}")):
            OmegaConf.update(cfg, key, "abc")


@pytest.mark.parametrize(
    "key",
    [
        "max_steps", "fused", "optimizer.lr", "optimizer.betas", "schedule.warmup", "data.size", "network.depth",
        "ema.decay", "evaluation.nfe", "evaluation.bench.map_seed", "segment.consistency.weight", "trainer.threads",
        "segment.noise_to_noisy.objective.end", "teacher.guidance.scale",
    ],
)  # fmt: skip
def test_a_wrong_type_fails_at_composition_with_the_key_named(key):
    answer = decm("train", "experiment=decm_2d", f"{key}=abc")
    assert answer.code == 2
    assert f"full_key: {key}" in answer.err
    assert "Traceback" not in answer.said


@pytest.mark.parametrize(
    "key",
    [
        "foo", "network.foo", "data.foo", "optimizer.foo", "schedule.foo", "ema.foo", "trainer.foo", "logger.foo",
        "evaluation.foo", "evaluation.bench.foo", "teacher.foo", "teacher.guidance.foo", "segment.consistency.foo",
        "segment.consistency.objective.foo", "objective.foo",
    ],
)  # fmt: skip
def test_an_unknown_key_fails_at_composition_by_name(key):
    answer = decm("train", "experiment=decm_2d", f"{key}=1", "--cfg", "job")
    assert answer.code == 2
    assert f"Could not override '{key}'" in answer.err
    assert "Traceback" not in answer.said


@pytest.mark.parametrize("network", GROUPS["network"])
def test_every_network_option_knows_its_types(network):
    answer = decm("train", f"network={network}", "network.depth=deep", "--cfg", "job")
    assert answer.code == 2
    assert "full_key: network.depth" in answer.err


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
