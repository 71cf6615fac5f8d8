"""Beside the step nothing mixes devices either: previews, decoding, features, scores, averages and their files.

Run on a fake device (tests/fake_gpu.py). Copies from the device are what these are for; averages need none.
"""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from decm.evaluation.evaluator import Evaluator
from decm.evaluation.statistics import build_reference
from decm.evaluation.suite import SuiteJudge
from decm.features.build import build_extractor
from decm.flow.flow_map import FlowMap
from decm.generator.decode import build_decoder
from decm.networks.autoencoder import Autoencoder
from decm.training.callbacks.evaluation.previews import Previews
from decm.training.callbacks.method.ema import EMA
from decm.training.callbacks.method.ema_snapshots import EMASnapshots
from decm.training.checkpoint_io import copied
from fake_gpu import DEVICE, FakeGPU, WaitsForDeviceError, put_there
from helpers import CLASSES, small_dit
from tiny import tiny_set
from training.test_no_waiting import on_device

SHAPE = (2, 8, 8)


class Trainer:
    """As much of one as these callbacks ask for."""

    global_step, is_global_zero, loggers = 1, True, ()


def pixels(x):
    return (127 + 60 * x[:, :1]).clamp(0, 255).to(torch.uint8)


def test_previews_come_from_the_device_of_the_student_and_of_its_teacher(tmp_path):
    painted = {}

    class Painter:
        columns = 3

        def compare(self, rows, path):
            painted.update(rows)

    with FakeGPU(reads=True):
        module = on_device(small_dit)
        evaluator = Evaluator(None, SHAPE, CLASSES, batch_size=2, device=DEVICE)
        module.field.scale = 1.0  # a gate asks for the times
        teacher = FlowMap(lambda x, t, s, y: module.field(x, t, y))
        previews = Previews(1, [1, 4], evaluator, Painter(), tmp_path, (), teacher)
        previews.act(Trainer(), module.ema_map)
    assert list(painted) == ["teacher, 4", "1 step", "4 steps"]
    assert {(x.shape, x.device.type) for x in painted.values()} == {((3, *SHAPE), "cpu")}


def test_scores_are_taken_of_features_that_the_device_computes():
    extractor = build_extractor("random_small", None)
    images = torch.randint(256, (30, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    reference = build_reference([images], extractor, "noise", "here", keep=30)
    with FakeGPU(reads=True):
        with torch.device(DEVICE):
            net = small_dit()
        there = put_there(build_extractor("random_small", None))
        there.to = lambda device: there
        judge = SuiteJudge([(there, reference)], pixels, batch_size=4, device=DEVICE)
        features = Evaluator(judge, SHAPE, CLASSES, batch_size=6, device=DEVICE)._made(
            FlowMap(net), 2, 9, (), judged=True
        )
    assert {len(rows) for rows in features.values()} == {9}
    assert {rows.device.type for rows in features.values()} == {"cpu"}


def test_latents_are_decoded_on_the_device(tmp_path):
    settings = {"channels": 32, "multipliers": [1, 2], "latent_channels": 4, "res_blocks": 1}
    state = Autoencoder(**settings).vae.state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "vae.safetensors")
    args = {**settings, "attention": False, "scale": 1.0}
    given = {"kind": "f8d4", "path": tmp_path / "vae.safetensors", "args": args, "chunk": 2}
    latents = replace(tiny_set((4, 4, 4)).manifest, extra={"kind": "latents"})
    decode = build_decoder(latents, given)
    with FakeGPU(reads=True):
        put_there(decode.autoencoder)
        pictures = decode(torch.randn(3, 4, 4, 4))
    assert (pictures.shape, pictures.dtype, pictures.device.type) == ((3, 3, 8, 8), torch.uint8, "cpu")


def test_averages_wait_for_nothing_and_their_files_are_of_the_cpu(tmp_path):
    snapshots = EMASnapshots(tmp_path, 2)
    with FakeGPU():
        module = on_device(small_dit)
        module.step.skipped = False
        for callback in (EMA(), snapshots):
            callback.on_optimizer_step(Trainer(), module)
        with pytest.raises(WaitsForDeviceError):  # the control: to write is to copy
            snapshots.save()
    with FakeGPU(reads=True):
        snapshots.save()
        copy = copied({"state_dict": module.state_dict(), "step": 1})
    (path, _) = sorted(tmp_path.iterdir())
    names = {name for name, _ in module.student.named_parameters()}
    assert load_file(path).keys() == names
    assert {tensor.device.type for tensor in copy["state_dict"].values()} == {"cpu"}
