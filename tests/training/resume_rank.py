"""One rank of a run that saves all the time, for a process of its own.

Goes on from the newest whole checkpoint of folder/checkpoints. Leaves folder/log_<rank>.jsonl, a line an optimizer step
(samples, plans, losses), and folder/end_<rank>.pt.
"""

import json
import os

import torch

from decm.checkpoints.folder import newest_valid
from decm.training.callbacks.method.ema import EMA
from decm.training.callbacks.method.ema_snapshots import EMASnapshots
from decm.training.callbacks.reliability.checkpoints import Checkpoints
from decm.training.checkpoint_io import CheckpointFiles
from tiny import Recorder, all_segments, fit, tiny_module, weights


def falling(step):
    return 1 / (1 + step)


class Log(Recorder):
    """Writes a line for each micro-batch as it ends."""

    def __init__(self, path):
        super().__init__()
        self.file = path.open("a", buffering=1)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        plans = {sub.name: [sub.start.tolist(), sub.end.tolist(), sub.weight] for sub in batch.plan}
        whole = (batch_idx + 1) % trainer.accumulate_grad_batches == 0  # losses are logged at the end of a step
        now = {f"loss/{name}" for name in batch.due if whole}  # the others' are of an earlier step
        losses = {name: float(value) for name, value in trainer.callback_metrics.items() if name in now}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        line = [trainer.global_step, batch.index.tolist(), plans, losses, rate]
        self.file.write(json.dumps(line) + "\n")


def train(folder, steps, micro, rank=0, world=1, port=0):
    """`micro` micro-batches an optimizer step, on rank `rank` of `world`."""
    torch.set_num_threads(1)
    (folder / f"pid_{rank}").write_text(str(os.getpid()))
    if world > 1:
        facts = {"LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port, "NODE_RANK": 0}
        os.environ.update({key: str(value) for key, value in facts.items()})
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"})
    module, average = tiny_module(label_drop=0.2, schedule=falling), EMASnapshots(folder / "snapshots", 7)
    saving = Checkpoints(folder / "checkpoints", 1)
    trainer = fit(
        module,
        [*all_segments(every=2), EMA(), average, Log(folder / f"log_{rank}.jsonl"), saving],
        steps,
        ckpt_path=newest_valid(folder / "checkpoints"),
        enable_checkpointing=True,
        plugins=[CheckpointFiles()],
        accumulate_grad_batches=micro,
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        gradient_clip_val=1.0,
        log_every_n_steps=1,
    )
    (schedule,) = trainer.lr_scheduler_configs
    left = {
        "student": weights(module),
        "ema": weights(module, "ema"),
        "averages": average.averages,
        "optimizer": trainer.optimizers[0].state_dict(),
        "schedule": schedule.scheduler.state_dict(),
        "step": trainer.global_step,
    }
    torch.save(left, folder / f"end_{rank}.pt")
