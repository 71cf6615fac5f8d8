"""One rank of a run of two, as a process of its own: python rank.py <folder>.

Trains twice and leaves folder/<kind>_<rank>.pt: once as decm does, once with noise drawn by each rank for itself.
"""

import os
import sys
from pathlib import Path

import torch

from decm.training.callbacks.ema import EMA
from decm.training.module import DistillationModule
from tiny import Recorder, all_segments, fit, tiny_module, weights

STEPS = 4


def adamw(parameters):
    """With an eps that keeps it from scaling the rounding of vanishing gradients up to its rate."""
    return torch.optim.AdamW(parameters, lr=1e-2, eps=1e-3)


class OwnNoise(DistillationModule):
    """The mistake: noise by the position within the rank's batch instead of the sample's index in the run."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        local = {**batch, "index": torch.arange(len(batch["index"]))}
        drawn = super().on_after_batch_transfer(local, dataloader_idx)
        drawn.index = batch["index"]
        return drawn


def train(kind="ours", **options):
    """What a process of the run has in the end: weights, averages, and the samples that it saw in each step."""
    module, recorder = tiny_module(label_drop=0.2, optimizer=adamw), Recorder()
    if kind == "own_noise":
        module.__class__ = OwnNoise
    fit(module, [*all_segments(every=2), EMA(), recorder], STEPS, gradient_clip_val=1.0, **options)
    seen = {
        int(i): torch.cat([batch.x[k].flatten(), batch.z[k].flatten(), batch.t[k : k + 1], batch.y[k : k + 1]])
        for batch in recorder.batches
        for k, i in enumerate(batch.index)
    }
    steps = list(zip(recorder.steps, recorder.index, strict=True))
    return {"student": weights(module), "ema": weights(module, "ema"), "seen": seen, "steps": steps}


if __name__ == "__main__":
    folder, rank = sys.argv[1], os.environ["LOCAL_RANK"]
    for kind in ("ours", "own_noise"):
        torch.save(train(kind, strategy="ddp", devices=2), Path(folder) / f"{kind}_{rank}.pt")
