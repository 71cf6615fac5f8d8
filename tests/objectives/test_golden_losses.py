"""FACM's and MeanFlow's losses and gradients are those of the public reference implementation."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from decm.flow.derivative import one_pass
from decm.flow.path import interpolate
from decm.flow.velocity import GuidedVelocity
from decm.networks.dit import LightningDiT
from decm.networks.weights import load_weights
from decm.objectives.base import Segment
from decm.objectives.consistency import Consistency
from decm.objectives.flow_matching import FlowMatching
from decm.objectives.mean_flow import MeanFlow

FILE = Path(__file__).parents[1] / "data" / "facm_meanflow_losses.safetensors"
PARAMETERS = ("blocks.0.attn.qkv.weight", "final_layer.linear.weight", "r_embedder.mlp.0.weight")
SIZES = ("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads")


@pytest.fixture(scope="module")
def golden():
    with safe_open(FILE, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        facts = {key: json.loads(value) for key, value in file.metadata().items()}

    def network(which):
        config = {name: facts["config"][name] for name in SIZES}
        net = LightningDiT(
            **config, mlp_ratio=4.0, num_classes=facts["config"]["num_classes"], qk_norm=True, two_times=True
        )
        load_weights(net, {k.removeprefix(which): v for k, v in tensors.items() if k.startswith(which)})
        return net

    g = facts["guidance"]
    field = GuidedVelocity(network("teacher."), g["null_class"], g["w"], None, g["low"], g["high"])
    return SimpleNamespace(vectors=tensors, student=lambda: network("student."), field=field, power=g["p"])


def loss_of(golden, objective, start, end, net, flip=1.0):
    """The mean of a law's loss over the batch, on one segment; `flip` is the derivative's sign."""
    v = golden.vectors
    segment = Segment(interpolate(v["x"], v["z"], start), start, end, v["y"])
    rows = objective.ask(segment, golden.field)
    if rows.tangents is None:
        F, dF = net(*rows[:4]), None
    else:
        F, dF = one_pass(net, *rows[:4], rows.tangents)
    with torch.no_grad():
        aim = objective.aim(segment, F.detach(), dF if dF is None else flip * dF, golden.field)
    return objective.measure(segment, F, aim).mean()


def facm(golden, net, flip=1.0):
    """(consistency, flow matching)."""
    t = golden.vectors["t"]
    law = Consistency("facm", golden.power)
    return loss_of(golden, law, t, torch.ones_like(t), net, flip), loss_of(golden, FlowMatching(1.0), t, t, net)


def mean_flow(golden, net, flip=1.0):
    t, r = golden.vectors["t"], golden.vectors["r"]
    return loss_of(golden, MeanFlow(1.0, 1e-3), torch.minimum(t, r), torch.maximum(t, r), net, flip)


def gradients(loss, net, end_embedding):
    """The gradients by the names of the reference."""
    named = dict(net.named_parameters())
    ours = [named[name.replace("r_embedder", end_embedding)] for name in PARAMETERS]
    return dict(zip(PARAMETERS, torch.autograd.grad(loss, ours), strict=True))


def off_by(golden, method, net, loss):
    """The relative errors of the gradients."""
    found = gradients(loss, net, "s_embedder")
    truth = {name: golden.vectors[f"{method}.grad.{name}"] for name in PARAMETERS}
    return {name: float((found[name] - truth[name]).norm() / truth[name].norm()) for name in PARAMETERS}


def test_facms_losses_are_those_of_the_reference(golden):
    consistency, matching = facm(golden, golden.student())
    for ours, name in ((consistency, "term1"), (matching, "term2"), (consistency + matching, "total")):
        assert ours.item() == pytest.approx(golden.vectors[f"facm.{name}"].item(), rel=1e-4)


def test_mean_flows_loss_is_that_of_the_reference(golden):
    assert mean_flow(golden, golden.student()).item() == pytest.approx(
        golden.vectors["meanflow.total"].item(), rel=1e-4
    )


def test_all_six_gradients_are_those_of_the_reference(golden):
    net = golden.student()
    errors = off_by(golden, "facm", net, sum(facm(golden, net)))
    errors |= {f"mean flow, {k}": v for k, v in off_by(golden, "meanflow", net, mean_flow(golden, net)).items()}
    assert len(errors) == 6
    assert max(errors.values()) < 1e-4, errors


def test_the_gradients_see_the_sign_of_the_derivative(golden):
    """MeanFlow's value hardly does: it moves by 4e-5."""
    net = golden.student()
    assert max(off_by(golden, "meanflow", net, mean_flow(golden, net, flip=-1.0)).values()) > 0.05
    assert max(off_by(golden, "facm", net, sum(facm(golden, net, flip=-1.0))).values()) > 0.05
