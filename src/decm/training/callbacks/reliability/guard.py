"""Bad numbers: a step whose loss or gradient is not finite is skipped on all ranks, and written down."""

import json
import math
import statistics
from collections import deque
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from decm.checkpoints.durable import write_text
from decm.training.callbacks.base import DistillationCallback, distillation
from decm.training.module import DistillationModule, NonFiniteLossError
from decm.training.sharding import full

INCIDENTS, ROLLBACKS = "incidents", "rollbacks.jsonl"
WINDOW = 100  # finite losses that a spike is measured against


class RollbackError(RuntimeError):
    """Too many bad steps in a row: the run is to go back to its last checkpoint, with a new data seed."""


def count_rollbacks(folder: Path) -> int:
    """How often a run went back; its data seed depends on it."""
    path = folder / ROLLBACKS
    return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0


def save_rollback(folder: Path, why: str, checkpoint: Path | None) -> None:
    """Write down that the run goes back to a checkpoint."""
    with (folder / ROLLBACKS).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"why": why, "to": checkpoint.name if checkpoint else "the start"}) + "\n")


class Guard(DistillationCallback):
    """Skips optimizer step and EMA where the loss or the gradient's norm is not finite on any rank; logs `grad_norm`.

    Each skipped step leaves `folder/incidents/step_<n>_seed_<s>_rank_<r>.json`: samples, times, losses and tangents
    of that rank's batch. After `patience` of them in a row RollbackError is raised on all ranks. A finite loss above
    `spike` times the median of the last 100 is reported only.
    """

    def __init__(self, folder: Path, patience: int = 10, spike: float = 10.0) -> None:
        if patience < 1 or spike <= 1:
            raise ValueError(f"guard: patience={patience}, spike={spike}; expected patience >= 1 and spike > 1.")
        self.folder, self.patience, self.spike = folder, patience, spike
        self.skipped, self.in_a_row, self.spikes = 0, 0, 0
        self.recent: deque[float] = deque(maxlen=WINDOW)
        self._seed: int | None = None  # of the data

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seed = distillation(pl_module).recipe.seed
        if self._seed not in (None, seed):
            self.in_a_row = 0  # the run went back, to other data
        self._seed = seed

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Drop the gradients of a bad step, so that the optimizer changes nothing, its own state included."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        module = distillation(pl_module)
        (norm,) = module.read_step(gradient_norm(parameters))
        module.log_step("grad_norm", norm)
        module.step.skipped = not math.isfinite(norm) or bool(module.step.bad_losses)
        if module.step.skipped:
            self._write_incident(trainer, module, norm)
            for parameter in parameters:
                parameter.grad = None

    def on_optimizer_step(self, trainer: Trainer, module: DistillationModule) -> None:
        if not module.step.skipped:
            self.in_a_row = 0
            self._report_spike(trainer, module.step.mean("total"))
            return
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        module.log("guard/skipped", float(self.skipped), batch_size=1)
        say(
            trainer,
            f"Step {trainer.global_step - 1} is skipped: its loss or gradient is not finite (skipped so far: "
            f"{self.skipped}). See {self.folder / INCIDENTS}",
        )
        if self.in_a_row >= self.patience:
            raise RollbackError(f"{self.in_a_row} steps in a row were not finite, up to step {trainer.global_step - 1}")

    def _report_spike(self, trainer: Trainer, total: float) -> None:
        if len(self.recent) == WINDOW and total > self.spike * statistics.median(self.recent):
            self.spikes += 1
            say(
                trainer,
                f"Loss spike at step {trainer.global_step - 1}: {total:.4g}, {self.spike:g} times the median "
                f"of the last {WINDOW} steps or more. Nothing is done about it.",
            )
        self.recent.append(total)

    def _write_incident(self, trainer: Trainer, module: DistillationModule, norm: float) -> None:
        """This rank's micro-batch (the first bad one) as plain numbers; its samples follow from seed and index."""
        step, rank, seed, example = module.step, trainer.global_rank, module.recipe.seed, module.step.example
        assert example is not None
        batch = example.batch
        incident = {
            "step": step.number,
            "rank": rank,
            "gradient_norm": norm,
            "seed": seed,
            "samples": batch.index.tolist(),
            "t": batch.t.tolist(),
            "segments": {sub.name: {"start": sub.start.tolist(), "end": sub.end.tolist()} for sub in batch.plan},
            "here": {name: float(value) for name, value in example.figures.items()},
            "over_all_ranks": step.bad_losses,
            "data_is_finite": bool(batch.x.isfinite().all()),
        }
        folder = self.folder / INCIDENTS
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step_{step.number:08d}_seed_{seed}_rank_{rank}.json"
        write_text(path, json.dumps(incident) + "\n")  # Python writes and reads NaN and Infinity

    def state_dict(self) -> dict[str, Any]:
        counts = {"skipped": self.skipped, "in_a_row": self.in_a_row, "spikes": self.spikes}
        return {**counts, "recent": list(self.recent), "seed": self._seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.in_a_row, self.spikes = (state_dict[key] for key in ("skipped", "in_a_row", "spikes"))
        self.recent, self._seed = deque(state_dict["recent"], maxlen=WINDOW), state_dict["seed"]


def gradient_norm(parameters: list[Tensor]) -> Tensor:
    """The norm of all gradients, over all shards; all ranks call it and get the same."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return full(torch.nn.utils.get_total_norm(gradients)) if gradients else torch.zeros(())


def say(trainer: Trainer, words: str) -> None:
    """A line on the terminal, from the first rank."""
    if trainer.is_global_zero:
        print(words, flush=True)


def gave_up(folder: Path, rollbacks: int, cause: RollbackError) -> NonFiniteLossError:
    """The error of a run that went back as often as it may."""
    return NonFiniteLossError(
        f"{cause}, after {rollbacks} rollbacks to the last checkpoint with other data. What each bad step saw is in "
        f"{folder / INCIDENTS}. Lower the learning rate, or choose another form of the loss."
    )
