"""One rank of a run, as a process of its own: python strategy_rank.py <folder> <case>...

Each case trains a small transformer for a few steps and leaves folder/<case>_<rank>.pt.
"""

import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback

from decm.networks.regions import prepare_regions
from decm.training.callbacks.method.ema import EMA
from decm.training.callbacks.reliability.self_check import SelfCheck
from decm.training.module import DistillationModule
from decm.training.sharding import ShardedStrategy, Sharding, full, gather_anew
from helpers import CLASSES, random_labels, random_states, random_times, randomize_parameters, small_dit
from tiny import all_segments, fit, recipe, saved_at, teacher_of, tiny_set

STEPS, SHAPE = 4, (2, 8, 8)
HALF, LONGER = {"dtype": torch.bfloat16}, STEPS + 2
CASES = {  # strategy, and what else is asked for
    "one": {},
    "one_split": {"jvp": "split"},
    "one_longer": {"steps": LONGER},
    "one_bf16": {"strategy": "fsdp", "sharding": HALF},
    "one_autocast": {"precision": "bf16-mixed"},
    "one_autocast_split": {"precision": "bf16-mixed", "jvp": "split", "checkpointed": True},
    "ddp": {"strategy": "ddp"},
    "ddp_checkpointed": {"strategy": "ddp", "jvp": "split", "checkpointed": True},
    "ddp_autocast": {"strategy": "ddp", "precision": "bf16-mixed"},
    "ddp_compiled": {"strategy": "ddp", "compiled": True},
    "ddp_unsynchronized": {"strategy": "ddp"},
    "fsdp": {"strategy": "fsdp"},
    "fsdp_reshard": {"strategy": "fsdp", "sharding": {"reshard": True}},
    "fsdp_checkpointed": {"strategy": "fsdp", "jvp": "split", "checkpointed": True},
    "fsdp_compiled": {"strategy": "fsdp", "compiled": True},
    "fsdp_bf16": {"strategy": "fsdp", "sharding": HALF},
    "fsdp_bf16_all": {
        "strategy": "fsdp",
        "sharding": {**HALF, "reshard": True},
        "compiled": True,
        "checkpointed": True,
        "jvp": "split",
    },
    "fsdp_resumed": {"strategy": "fsdp", "steps": LONGER, "resume": f"fsdp/step={STEPS}.ckpt"},
}


def adamw(parameters):
    """With an eps that keeps it from scaling the rounding of vanishing gradients up to its rate."""
    return torch.optim.AdamW(parameters, lr=1e-2, eps=1e-3)


class Watch(Callback):
    """F and dF at the start, the gradients of the first step, each step's losses, weights and averages at the end."""

    def __init__(self):
        self.losses, self.seen = [], {}

    def on_train_start(self, trainer, pl_module):
        x, t, s = random_states(3, SHAPE, dtype=torch.float32), random_times(3, 0.1, 0.4), random_times(3, 0.5, 0.9)
        x, t, s = x.float(), t.float(), s.float()
        with trainer.precision_plugin.forward_context():
            F, dF = pl_module.student(x, t, s, random_labels(3), tangents=(x.flip(0), t, -s))
        gather_anew(pl_module.student)
        self.seen |= {"F": F.detach(), "dF": dF, "dF_has_gradient": dF.requires_grad}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if "gradients" not in self.seen:
            self.seen["gradients"] = {name: full(p.grad).clone() for name, p in pl_module.student.named_parameters()}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append({k: float(v) for k, v in trainer.callback_metrics.items()})

    def on_train_end(self, trainer, pl_module):
        for part in ("student", "ema"):
            self.seen[part] = {k: full(v).clone() for k, v in getattr(pl_module, part).state_dict().items()}


class Unsynchronized(DistillationModule):
    """The mistake: gradients of all the student's weights but one are not averaged over ranks."""

    @property
    def _ddp_params_and_buffers_to_ignore(self):
        return [f"student.{name}" for name, _ in self.student.named_parameters()][1:]


def train(folder, case, devices=1):
    """What the run of a case leaves on this rank."""
    asked = {"strategy": "auto", "compiled": False, "checkpointed": False, "jvp": "dual", **CASES[case]}
    student = randomize_parameters(small_dit("raw"), seed=1)
    net = randomize_parameters(small_dit("raw", two_times=False), seed=2).requires_grad_(False)
    prepare_regions(student, asked["compiled"], asked["checkpointed"])
    prepare_regions(net, asked["compiled"])
    kind = Unsynchronized if case == "ddp_unsynchronized" else DistillationModule
    made, sharding = recipe(optimizer=adamw, jvp=asked["jvp"], label_drop=0.2), Sharding(**asked.get("sharding", {}))
    module, watch, sharded = kind(student, teacher_of(net), made, sharding), Watch(), asked["strategy"] == "fsdp"
    saving = [saved_at(folder / case, STEPS)] if sharded else []
    fit(
        module,
        [*all_segments(every=2), EMA(), SelfCheck(), watch, *saving],
        asked.get("steps", STEPS),
        tiny_set(SHAPE, classes=CLASSES),
        gradient_clip_val=1.0,
        devices=devices,
        ckpt_path=folder / asked["resume"] if "resume" in asked else None,
        enable_checkpointing=sharded,
        strategy=ShardedStrategy() if sharded else asked["strategy"],
        precision=asked.get("precision", "32-true"),
    )
    return {"losses": watch.losses, "equivalents": module.forward_equivalents, **watch.seen}


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, rank, world = Path(sys.argv[1]), os.environ["LOCAL_RANK"], int(os.environ["WORLD_SIZE"])
    for case in sys.argv[2:]:
        torch.save(train(folder, case, world), folder / f"{case}_{rank}.pt")
