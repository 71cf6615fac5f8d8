"""Every setting knows its type, and a key that is none is refused, by name."""

import copy
import functools
import re

import pytest
from omegaconf import DictConfig, OmegaConf, ValidationError
from omegaconf.errors import OmegaConfBaseException

from commands import ROOT, decm
from decm.settings.composition import compose

NETWORKS = sorted(path.stem for path in (ROOT / "conf" / "network").glob("*.yaml"))
# Settings that hold anything: devices (a number, a list or auto), maps by NFE, and a map of times or none.
FREE = {"trainer.devices", "trainer.compile", "evaluation.samplers", "times"}
LISTED = {"network.input_size"}  # a number, or a list: the network itself refuses what is neither


@functools.cache
def composed(*overrides):
    """A configuration of `decm train`, not to be changed."""
    return compose("train", overrides)


def leaves(cfg, prefix=""):
    for key in cfg:
        value = cfg[key]
        if isinstance(value, DictConfig):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def numbers(cfg):
    """Every setting that is a number, a switch or a list."""
    return [
        key
        for key, value in leaves(cfg)
        if not isinstance(value, str | None) and key not in FREE | LISTED and "._" not in key
    ]


@pytest.mark.parametrize("experiment", ["decm_digits", "decm_2d"])
def test_every_number_switch_and_list_knows_its_type(experiment):
    cfg = copy.deepcopy(composed(f"experiment={experiment}"))
    assert len(numbers(cfg)) > 60
    for key in numbers(cfg):
        with pytest.raises(ValidationError, match=re.escape(f"full_key: {key}")):
            OmegaConf.update(cfg, key, "abc")


@pytest.mark.parametrize(
    "key",
    [
        "max_steps",
        "fused",
        "optimizer.lr",
        "optimizer.betas",
        "schedule.warmup",
        "data.size",
        "network.depth",
        "ema.decay",
        "evaluation.nfe",
        "evaluation.protocol.map_seed",
        "method.consistency.weight",
        "trainer.threads",
        "method.noise_to_noisy.objective.end",
        "teacher.guidance.scale",
    ],
)
def test_a_wrong_type_fails_by_the_name_of_its_key(key):
    with pytest.raises(ValidationError, match=re.escape(f"full_key: {key}")):
        OmegaConf.update(copy.deepcopy(composed("experiment=decm_2d")), key, "abc")


def test_a_wrong_type_and_an_unknown_key_fail_at_composition_in_a_sentence():
    answer = decm("train", "experiment=decm_2d", "method.consistency.weight=abc")
    assert answer.code == 2
    assert "full_key: method.consistency.weight" in answer.err
    assert "Traceback" not in answer.said
    answer = decm("train", "experiment=decm_2d", "method.consistency.objective.foo=1", "--cfg", "job")
    assert answer.code == 2
    assert "Could not override 'method.consistency.objective.foo'" in answer.err
    assert "Traceback" not in answer.said


@pytest.mark.parametrize(
    "key",
    [
        "foo",
        "network.foo",
        "data.foo",
        "optimizer.foo",
        "schedule.foo",
        "ema.foo",
        "trainer.foo",
        "logger.foo",
        "evaluation.foo",
        "evaluation.protocol.foo",
        "teacher.foo",
        "teacher.guidance.foo",
        "method.consistency.foo",
        "method.consistency.objective.foo",
        "method.foo",
    ],
)
def test_an_unknown_key_fails_by_its_name(key):
    with pytest.raises(OmegaConfBaseException, match=f"'{key.rpartition('.')[2]}'"):
        OmegaConf.update(copy.deepcopy(composed("experiment=decm_2d")), key, 1)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_option_knows_its_types(network):
    with pytest.raises(ValidationError, match=r"full_key: network\.depth"):
        OmegaConf.update(copy.deepcopy(composed(f"network={network}")), "network.depth", "deep")


@pytest.mark.parametrize(("key", "wrong"), [("autoencoder.chunk", "many"), ("dinov2.weights", ["a"])])
def test_a_setting_within_an_argument_that_is_a_mapping_knows_its_type_too(key, wrong):
    path = f"evaluation.protocol.{key}"
    with pytest.raises(ValidationError, match=re.escape(f"full_key: {path}")):
        OmegaConf.update(copy.deepcopy(composed("experiment=decm_imagenet_smoke")), path, wrong)
