"""Bad numbers: a step whose loss or gradient is not finite is skipped on all ranks, and written down."""

import json
import math
import statistics
from collections import deque
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from decm.training.module import NonFiniteLossError
from decm.training.sharding import full

INCIDENTS, ROLLBACKS = "incidents", "rollbacks.jsonl"
WINDOW = 100  # finite losses that a spike is measured against


class RollBackError(RuntimeError):
    """Too many bad steps in a row: the run is to go back to its last checkpoint, with other data."""


def count_rollbacks(folder: Path) -> int:
    """How often a run went back; its data seed depends on it."""
    path = folder / ROLLBACKS
    return len(path.read_text().splitlines()) if path.is_file() else 0


def note_rollback(folder: Path, why: str, checkpoint: Path | None) -> None:
    """Write down that the run goes back to a checkpoint."""
    with (folder / ROLLBACKS).open("a") as file:
        file.write(json.dumps({"why": why, "to": checkpoint.name if checkpoint else "the start"}) + "\n")


class Guard(Callback):
    """Skips optimizer step and EMA where the loss or the gradient's norm is not finite on any rank; logs `grad_norm`.

    Each skipped step leaves `folder/incidents/step_<n>_seed_<s>_rank_<r>.json`: samples, times, losses and tangents
    of that rank's batch. After `patience` of them in a row RollBackError is raised on all ranks. A finite loss above
    `spike` times the median of the last 100 is said, and nothing else is done about it.
    """

    def __init__(self, folder: Path, patience: int = 10, spike: float = 10.0) -> None:
        if patience < 1 or spike <= 1:
            raise ValueError(f"guard: patience={patience}, spike={spike}; expected patience >= 1 and spike > 1.")
        self.folder, self.patience, self.spike = folder, patience, spike
        self.skipped, self.in_a_row, self.spikes = 0, 0, 0
        self.recent: deque[float] = deque(maxlen=WINDOW)
        self._bad, self._step = False, 0
        self._seed: int | None = None  # of the data

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pl_module.guarded = True  # type: ignore[assignment]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        if self._seed not in (None, pl_module.recipe.seed):  # type: ignore[union-attr]
            self.in_a_row = 0  # the run went back, to other data
        self._seed = pl_module.recipe.seed  # type: ignore[union-attr, assignment]

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Drop the gradients of a bad step, so that the optimizer changes nothing, its own state included."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = gradient_norm(parameters)
        pl_module.log("grad_norm", norm, batch_size=1)
        self._bad = not math.isfinite(norm) or bool(pl_module.bad_losses)
        pl_module.skipped = self._bad  # type: ignore[assignment]
        if self._bad:
            self._write(trainer, pl_module, norm)
            for parameter in parameters:
                parameter.grad = None
        pl_module.bad_losses = {}  # type: ignore[assignment]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:  # a micro-batch within an optimizer step
            return
        self._step = trainer.global_step
        if not self._bad:
            self.in_a_row = 0
            self._watch(trainer, float(pl_module.total))  # type: ignore[arg-type]
            return
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        pl_module.log("guard/skipped", float(self.skipped), batch_size=1)
        say(trainer, f"Step {trainer.global_step - 1} is skipped: its loss or gradient is not finite (skipped so far: "
            f"{self.skipped}). See {self.folder / INCIDENTS}")  # fmt: skip
        if self.in_a_row >= self.patience:
            raise RollBackError(f"{self.in_a_row} steps in a row were not finite, up to step {trainer.global_step - 1}")

    def _watch(self, trainer: Trainer, total: float) -> None:
        if len(self.recent) == WINDOW and total > self.spike * statistics.median(self.recent):
            self.spikes += 1
            say(trainer, f"Loss spike at step {trainer.global_step - 1}: {total:.4g}, {self.spike:g} times the median "
                f"of the last {WINDOW} steps or more. Nothing is done about it.")  # fmt: skip
        self.recent.append(total)

    def _write(self, trainer: Trainer, pl_module: LightningModule, norm: float) -> None:
        step = trainer.global_step
        facts = {"step": step, "rank": trainer.global_rank, "gradient_norm": norm, **pl_module.last_batch()}  # type: ignore[operator]
        folder = self.folder / INCIDENTS
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step_{step:08d}_seed_{facts['seed']}_rank_{trainer.global_rank}.json"
        path.write_text(json.dumps(facts) + "\n")  # Python writes and reads NaN and Infinity

    def state_dict(self) -> dict[str, Any]:
        counts = {"skipped": self.skipped, "in_a_row": self.in_a_row, "spikes": self.spikes}
        return {**counts, "recent": list(self.recent), "seed": self._seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.in_a_row, self.spikes = (state_dict[key] for key in ("skipped", "in_a_row", "spikes"))
        self.recent, self._seed = deque(state_dict["recent"], maxlen=WINDOW), state_dict["seed"]


def gradient_norm(parameters: list[Tensor]) -> float:
    """The norm of all gradients, over all shards; all ranks call it and get the same."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return 0.0
    return float(full(torch.nn.utils.get_total_norm(gradients)))


def say(trainer: Trainer, words: str) -> None:
    """A line on the terminal, from the first rank."""
    if trainer.is_global_zero:
        print(words, flush=True)


def gave_up(folder: Path, rollbacks: int, cause: RollBackError) -> NonFiniteLossError:
    """The error of a run that went back as often as it may."""
    return NonFiniteLossError(
        f"{cause}, after {rollbacks} rollbacks to the last checkpoint with other data. What each bad step saw is in "
        f"{folder / INCIDENTS}. Lower the learning rate, or choose another form of the loss."
    )
