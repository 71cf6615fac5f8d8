"""The host does not wait for the device within a step, but for one read of its figures; nothing mixes devices.

Run on a fake device (tests/fake_gpu.py): the forward of a step of each objective, and each sampler. test_devices.py
has what is beside the step; a backward pass needs a real device.
"""

import pytest
import torch

from decm.flow.exact import GaussianFlow
from decm.flow.flow_map import FlowMap
from decm.flow.solvers import SAMPLERS, sample
from decm.flow.velocity import GuidedVelocity
from decm.objectives.alpha_flow import AlphaFlow
from decm.objectives.consistency import FORMS, Consistency
from decm.objectives.discrete_consistency import DiscreteConsistency
from decm.objectives.flow_matching import FlowMatching
from decm.objectives.improved_mean_flow import ImprovedMeanFlow
from decm.objectives.mean_flow import MeanFlow
from decm.objectives.noise_to_noisy import NoiseToNoisy
from decm.objectives.scm import SCM
from decm.objectives.shortcut import Shortcut
from decm.training.callbacks.method.trajectories import AnyLater, Dyadic, FromNoise, Instantaneous, ToData
from decm.training.module import DistillationModule, Teacher
from fake_gpu import DEVICE, FakeGPU, WaitsForDeviceError
from helpers import CLASSES, small_dit, small_mlp
from tiny import GLOBAL_BATCH, all_segments, planned, recipe, tiny_set, without_trainer

SHAPES = {small_dit: (2, 8, 8), small_mlp: (2, 1, 1)}
LAWS = {
    "all of DE-CM": all_segments,
    "every form": lambda: [ToData(form, Consistency(form), fraction=0.5) for form in FORMS],
    "end only": lambda: [FromNoise(name="n2n", objective=NoiseToNoisy(1.0, 0.0), spread=True)],
    "scm": lambda: [ToData("scm", SCM(adaptive=False))],
    "ect": lambda: [ToData("ect", DiscreteConsistency())],
    "mean flow": lambda: [AnyLater(name="mean_flow", objective=MeanFlow())],
    "improved mean flow": lambda: [AnyLater(name="mean_flow", objective=ImprovedMeanFlow())],
    "alpha flow": lambda: [AnyLater(name="alpha_flow", objective=AlphaFlow())],
    "shortcut": lambda: [Dyadic(name="shortcut", objective=Shortcut())],
}


def on_device(make, teacher=True):
    """A module on the fake device, with a guided teacher of a gate."""
    with torch.device(DEVICE):
        student = make()
        net = make(two_times=False).requires_grad_(False) if teacher else None
        field = GuidedVelocity(net, CLASSES, 1.5, eta_rms=0.1, low=0.3) if teacher else None
        return DistillationModule(student, Teacher(field, net) if teacher else None, recipe(label_drop=0.1))


def step(module, trajectories, shape):
    """The forward of a step, from the loader's batch on; its record is not read."""
    without_trainer(module)
    index = torch.arange(GLOBAL_BATCH)
    x, y = tiny_set(shape).batch(0, index)
    batch = module.transfer_batch_to_device(module.draw({"x": x, "y": y, "index": index}), DEVICE, 0)
    return module.training_step(planned(module, batch, trajectories), 0)


@pytest.mark.parametrize(("make", "law"), [(small_dit, "all of DE-CM"), *((small_mlp, law) for law in LAWS)])
def test_the_forward_of_a_step_waits_for_nothing(make, law):
    with FakeGPU():
        loss = step(on_device(make), LAWS[law](), SHAPES[make])
    assert (loss.device, loss.shape) == (DEVICE, ())


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_without_a_gate_guidance_or_teacher_neither(scale):
    with FakeGPU():
        module = on_device(small_mlp)
        module.field.scale = scale
        assert step(module, all_segments(), (2, 1, 1)).is_cuda
        plain = on_device(small_mlp, teacher=False)
        assert step(plain, [Instantaneous("instantaneous", FlowMatching())], (2, 1, 1)).is_cuda
        plain.field = GaussianFlow(0.7, 0.4).velocity  # a known flow takes the times as they come
        plain.has_teacher = True
        assert step(plain, all_segments(), (2, 1, 1)).is_cuda


def test_its_figures_are_read_once(monkeypatch):
    """However many micro-batches there are: one reduction, one copy."""
    with FakeGPU():
        module = on_device(small_mlp)
        step(module, all_segments(), (2, 1, 1))
        with pytest.raises(WaitsForDeviceError):  # the control: this is the read
            module.read_step()
    module = DistillationModule(small_mlp(), None, recipe())
    logged = without_trainer(module, accumulate=4)
    reads = []
    monkeypatch.setattr(module._trainer.strategy, "reduce", lambda table, reduce_op: reads.append(table.shape) or table)
    for part in range(4):
        index = torch.arange(2 * part, 2 * part + 2)
        x, y = tiny_set().batch(0, index)
        batch = module.draw({"x": x, "y": y, "index": index})
        module.training_step(planned(module, batch, [Instantaneous("instantaneous", FlowMatching())]), 0)
    assert not reads
    module.read_step()
    assert [shape[0] for shape in reads] == [4]
    assert logged["loss/instantaneous"] > 0


@pytest.mark.parametrize("make", SHAPES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_no_sampler_waits_for_the_device(make, name):
    """Of a network; the gate of a guided teacher does, since a sampler's times are on the device."""
    nfe = 1 if name == "jump" else 4
    with FakeGPU():
        with torch.device(DEVICE):
            net = make()
        z, y = torch.randn(3, *SHAPES[make]).to(DEVICE), torch.zeros(3, dtype=torch.long).to(DEVICE)
        with torch.no_grad():
            x = sample(FlowMap(net), z, y, nfe, name, lambda k: torch.randn(3, *SHAPES[make]).to(DEVICE))
        assert (x.device, x.shape) == (DEVICE, z.shape)
        assert GuidedVelocity(net, CLASSES)(z, torch.zeros(3).to(DEVICE), y).is_cuda  # without guidance neither
        with pytest.raises(WaitsForDeviceError, match="nonzero"):
            GuidedVelocity(net, CLASSES, 1.5)(z, torch.zeros(3).to(DEVICE), y)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: torch.equal(x, x),
        lambda x: bool((x > 0).all()),
        lambda x: x + torch.ones(4, 3),
        lambda x: x[torch.tensor([0, 1])],
    ],
)
def test_what_would_wait_is_seen(wait):
    """The controls: values, sizes and copies of the device, and tensors of both devices."""
    with FakeGPU():
        x = torch.randn(4, 3).to(DEVICE)
        assert (x @ x.T).shape == (4, 4)
        with pytest.raises(WaitsForDeviceError):
            wait(x)
