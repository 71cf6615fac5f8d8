"""One rank of two that evaluate in the loop, as a process of its own: python loop_rank.py <folder>.

Leaves folder/loop_<rank>.pt.
"""

import copy
import os
import sys
from pathlib import Path

import torch
from torch import distributed as dist

from decm.evaluation.evaluator import Evaluator
from decm.evaluation.stored import StoredEvaluator
from decm.flow.flow_map import FlowMap
from decm.training.callbacks.evaluation.previews import Evaluate, Previews
from decm.training.callbacks.method.ema import EMA
from decm.training.csv_logger import MetricsCSV
from helpers import CLASSES
from tiny import all_segments, fit, tiny_module

NFES, SEGMENTS = (1, 2), ("instantaneous", "consistency", "noise_to_noisy")
NUM, BATCH = 18, 4  # 5 batches, the last of 2


class Judge:
    """The mean and the largest of the samples; counts how often it is asked."""

    metric, reference = "mean", "nothing"

    def __init__(self):
        self.asked = 0

    def features(self, samples):
        return {"samples": samples}

    def compare(self, features, labels):
        self.asked, samples = self.asked + 1, features["samples"]
        return {"value": float(samples.mean()), "largest": float((samples.flatten(1).sum(1) * labels).max())}


class Painter:
    """Keeps what it is asked to paint."""

    columns = 9  # 3 batches, the last of 1

    def __init__(self):
        self.painted = {}

    def compare(self, rows, path):
        self.painted[path.name] = dict(rows)


class Watched(MetricsCSV):
    """Keeps what it is given, on any rank."""

    def __init__(self, folder):
        super().__init__(folder)
        self.seen = {}

    def log_metrics(self, metrics, step=None):
        self.seen.setdefault(step, {}).update(metrics)
        super().log_metrics(metrics, step)


def standing_still(parameters):
    """Two ranks train to the weights of one process up to rounding only; at rate zero nothing rounds."""
    return torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0)


def count_calls(network, calls):
    network.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))


def loop(folder, **options):
    """Two optimizer steps, previews and evaluation after each: what was painted, logged, judged, and called."""
    module, judge, painter = tiny_module(optimizer=standing_still), Judge(), Painter()
    calls, teacher_calls = [], []
    count_calls(module.ema, calls)
    count_calls(module.teacher, teacher_calls)
    evaluator = Evaluator(judge, (2, 1, 1), CLASSES, seed=3, batch_size=BATCH)
    callbacks = [
        *all_segments(),
        EMA(),
        Previews(
            1,
            NFES,
            evaluator=evaluator,
            painter=painter,
            folder=folder / "previews",
            trained_on=SEGMENTS,
            teacher=FlowMap(module.teacher),
        ),
        Evaluate(1, NFES, NUM, evaluator, None, SEGMENTS),
    ]
    logger = Watched(folder)
    fit(module, callbacks, 2, logger=logger, default_root_dir=folder, log_every_n_steps=100, **options)
    figures = {step: {k: v for k, v in row.items() if k.startswith("fd/")} for step, row in logger.seen.items()}
    return {
        "painted": painter.painted,
        "figures": figures,
        "asked": judge.asked,
        "calls": calls,
        "teacher_calls": teacher_calls,
    }


def sharded(folder, network):
    """Samples of `network`, its weights sharded over the ranks: at once, kept in files, and after a file is lost."""
    from torch.distributed.fsdp import fully_shard

    split = FlowMap(fully_shard(copy.deepcopy(network)))
    plain = Evaluator(Judge(), (2, 1, 1), CLASSES, seed=3, batch_size=BATCH)
    files = [Judge(), (2, 1, 1), CLASSES, 3, BATCH, {}, "cpu", folder / "kept", {}, dist.get_rank(), 2]
    found = {
        "whole": plain.samples(FlowMap(network), 2, NUM, SEGMENTS),
        "split": plain.samples(split, 2, NUM, SEGMENTS),
        "kept": StoredEvaluator(*files).samples(split, 2, NUM, SEGMENTS),
    }
    dist.barrier()
    if dist.get_rank() == 0:
        next((folder / "kept").rglob("000001.npy")).unlink()
    dist.barrier()
    return {**found, "again": StoredEvaluator(*files).samples(split, 2, NUM, SEGMENTS)}


if __name__ == "__main__":
    folder, rank = sys.argv[1], os.environ["LOCAL_RANK"]
    found = loop(Path(folder), strategy="ddp", devices=2)
    torch.save({**found, "sharded": sharded(Path(folder), tiny_module().student)}, Path(folder) / f"loop_{rank}.pt")
