"""One rank of a run of several, as a process of its own: python rank.py <folder> <kind>...

Trains once a kind and leaves folder/<kind>_<rank>.pt: as decm does, with noise drawn by each rank for itself, on
latents, and from a checkpoint that one process left.
"""

import os
import sys
from pathlib import Path

import torch

from decm.data.latents import LatentDataset
from decm.data.making.latent_sets import Plan, finish_set, write_set
from decm.data.making.latent_sources import SyntheticLatents
from decm.training.callbacks.method.ema import EMA
from decm.training.module import DistillationModule
from helpers import CLASSES, randomize_parameters, small_dit
from tiny import POINTS, Recorder, all_segments, fit, recipe, saved_at, teacher_of, tiny_module, weights

STEPS, HALF, SHAPE = 4, 2, (2, 8, 8)
SET, CHECKPOINT = "set", f"step={HALF}.ckpt"


def adamw(parameters):
    """With an eps that keeps it from scaling the rounding of vanishing gradients up to its rate."""
    return torch.optim.AdamW(parameters, lr=1e-2, eps=1e-3)


class OwnNoise(DistillationModule):
    """The mistake: noise by the position within the rank's batch instead of the sample's index in the run."""

    def draw(self, batch):
        drawn = super().draw({**batch, "index": torch.arange(len(batch["index"]))})
        drawn.index = batch["index"]
        return drawn


def latent_set(folder):
    """As many latents as the tiny set has points, with mirrored copies: epochs end within a batch and a record."""
    plan = Plan(
        name="latents",
        samples=POINTS,
        shape=SHAPE,
        dtype="float32",
        num_classes=CLASSES,
        flip=True,
        origin="tests",
        extra={},
        record_size=3,
        shard_records=2,
    )
    write_set(folder / SET, plan, SyntheticLatents(SHAPE, CLASSES, "float32", True, 0), 0, 1, lambda samples: None)
    finish_set(folder / SET, plan)


def module_of(kind):
    """A perceptron on points, or a transformer on latents, each with a teacher."""
    if kind == "latents":
        student = randomize_parameters(small_dit("raw"), seed=1)
        net = randomize_parameters(small_dit("raw", two_times=False), seed=2).requires_grad_(False)
        return DistillationModule(student, teacher_of(net), recipe(label_drop=0.2, optimizer=adamw))
    module = tiny_module(label_drop=0.2, optimizer=adamw)
    if kind == "own_noise":
        module.__class__ = OwnNoise
    return module


class Losses(Recorder):
    """And what is logged in each step."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self.losses.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def train(kind="ours", folder=None, until=STEPS, **options):
    """What a process of the run has in the end: weights, averages, losses, and the samples that it saw in each step.

    A run `until` half of the steps leaves a checkpoint in the folder; the kind `resumed` goes on from it.
    """
    module, recorder = module_of(kind), Losses()
    saving = [saved_at(folder, HALF)] if until == HALF else []
    fit(
        module,
        [*all_segments(every=2), EMA(), recorder, *saving],
        until,
        LatentDataset(folder / SET, flip=True) if kind == "latents" else None,
        gradient_clip_val=1.0,
        ckpt_path=folder / CHECKPOINT if kind == "resumed" else None,
        enable_checkpointing=bool(saving),
        **options,
    )
    seen = {
        int(i): torch.cat([batch.x[k].flatten(), batch.z[k].flatten(), batch.t[k : k + 1], batch.y[k : k + 1]])
        for batch in recorder.batches
        for k, i in enumerate(batch.index)
    }
    steps = list(zip(recorder.steps, recorder.index, strict=True))
    return {
        "student": weights(module),
        "ema": weights(module, "ema"),
        "seen": seen,
        "steps": steps,
        "losses": recorder.losses,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, rank, world = Path(sys.argv[1]), os.environ["LOCAL_RANK"], int(os.environ["WORLD_SIZE"])
    for kind in sys.argv[2:]:
        torch.save(train(kind, folder, strategy="ddp", devices=world), folder / f"{kind}_{rank}.pt")
