"""A tangent that is not the derivative stops the run before its first step, and the layer is named."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from decm.networks import tangent_rules
from decm.networks.dit import LightningDiT
from decm.networks.regions import prepare_regions, regions
from decm.training.callbacks.reliability.self_check import LIMITS, SelfCheck, WrongTangentError, check_tangents
from helpers import CLASSES, small_dit, small_mlp
from tiny import all_segments, fit, tiny_module, tiny_set, weights

FINE, HALF = LIMITS["32-true"], LIMITS["bf16-mixed"]


def check(network, limit=FINE):
    check_tangents(network, nullcontext, limit)


def half():
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("make", [small_dit, small_mlp, lambda: small_dit("difference"), lambda: small_mlp("raw")])
def test_right_tangents_pass_and_the_weights_stay_as_they_were(make):
    """Also of a fresh network, whose output and tangent are zero."""
    network = make()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    check(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_half_precision_passes_within_its_own_limits_alone():
    """With room to spare: a third of the limit."""
    check_tangents(small_dit(), half, HALF / 3)
    with pytest.raises(WrongTangentError):
        check_tangents(small_dit(), half, 1e-4)


def dropping(monkeypatch, network, name):
    """The tangent of the MLP in block `name` is dropped from now on, as some faults of PyTorch do it."""
    right = tangent_rules.swiglu
    network.get_submodule(f"{name}.mlp").drops = True  # a graph is shared by blocks whose attributes are equal

    def swiglu(layer, x, dx):
        y, dy = right(layer, x, dx)
        return y, torch.zeros_like(dy) if hasattr(layer, "drops") else dy

    monkeypatch.setattr(tangent_rules, "swiglu", swiglu)


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("name", ["blocks.0", "blocks.1"])
def test_a_tangent_dropped_in_a_block_is_found_and_the_block_is_named(monkeypatch, name, limit):
    network = small_dit()
    dropping(monkeypatch, network, name)
    with pytest.raises(WrongTangentError, match=rf"tangent of {name} of LightningDiT is not its derivative"):
        check(network, limit)


@pytest.mark.parametrize("weight", [1e4, 3e38, float("nan")])
def test_weights_that_have_diverged_are_no_wrong_tangent(monkeypatch, weight):
    """A tangent that is not finite is one."""
    network = small_dit()
    with torch.no_grad():
        network.blocks[0].mlp.fc2.weight.fill_(weight)
    check(network)
    right = tangent_rules.swiglu
    monkeypatch.setattr(tangent_rules, "swiglu", lambda *given: (right(*given)[0], right(*given)[1] * torch.nan))
    with pytest.raises(WrongTangentError, match=r"blocks\.0"):
        check(network)


@pytest.mark.slow
def test_a_tangent_dropped_within_a_compiled_region_is_found_and_named(monkeypatch):
    network = small_dit()
    prepare_regions(network, compiled=True)
    check(network)
    assert all(block.compiled for block in regions(network).values())
    dropping(monkeypatch, network, "blocks.1")
    with pytest.raises(WrongTangentError, match=r"tangent of blocks\.1 of LightningDiT"):
        check(network)


def test_a_fault_outside_of_the_blocks_is_found_in_the_whole_network(monkeypatch):
    network = small_dit()
    monkeypatch.setattr(
        network.final_layer, "with_tangent", lambda h, dh, c, dc: (network.final_layer(h, c), dh[..., :32] * 0)
    )
    with pytest.raises(WrongTangentError, match="tangent of the whole network"):
        check(network)


def test_a_run_with_wrong_tangents_does_not_take_a_step(monkeypatch):
    module = tiny_module(student=small_dit())
    dropping(monkeypatch, module.student, "blocks.1")
    before = weights(module)
    with pytest.raises(WrongTangentError, match="self_check=false"):
        fit(module, [*all_segments(), SelfCheck()], 2, tiny_set((2, 8, 8)))
    assert all(torch.equal(before[name], value) for name, value in weights(module).items())


class NoTangents(nn.Module):
    """A network that is not written for tangents: torch.func.jvp's matter, not ours."""

    shape = (2, 8, 8)
    num_classes = CLASSES

    def __init__(self):
        super().__init__()
        self.net: LightningDiT = small_dit()

    def forward(self, x, t, s, y):
        return self.net(x, t, s, y)


def test_a_network_without_tangents_of_its_own_trains_and_says_so_once():
    module = tiny_module(student=NoTangents(), teacher=False)
    with pytest.warns(UserWarning, match="NoTangents does not take tangents") as said:
        fit(module, [*all_segments()[:2], SelfCheck()], 2, tiny_set((2, 8, 8)))
    assert len([w for w in said if "does not take tangents" in str(w.message)]) <= 2
    assert module.forward_equivalents == 2 * 8 * (3 + 5)
