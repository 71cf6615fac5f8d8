"""Trajectory samplers: which segment of the anchor is planned, when, on which rows. Each appends to `batch.plan`."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from decm.flow.randomness import uniform
from decm.objectives.base import Batch, Objective, SubTrajectory
from decm.training.callbacks.base import DistillationCallback, distillation
from decm.training.schedules import linear_decay, linear_ramp
from decm.training.sharding import ShardedStrategy


def chosen_rows(index: Tensor, global_batch: int, count: int) -> Tensor:
    """Which of the samples `index` [B] belong to the `count` evenly spread rows of each global batch: positions [b]."""
    at = index % global_batch
    return torch.nonzero((at + 1) * count // global_batch > at * count // global_batch).flatten()


class Trajectory(DistillationCallback):
    """Plans one segment named `name`, every `every` optimizer steps, on a `fraction` of the rows.

    Its loss has `weight`, times a linear ramp over `weight_ramp_steps` steps; an objective with a schedule of its own
    (a warm-up, a curriculum) gets its progress over `schedule_steps`, from 0 to 1. Everything is keyed on
    `trainer.global_step` and on the samples' indices, so that micro-batches, ranks and resumed runs plan the same.
    """

    def __init__(
        self,
        name: str,
        objective: Objective,
        weight: float = 1.0,
        every: int = 1,
        fraction: float = 1.0,
        weight_ramp_steps: int = 0,
        schedule_steps: int = 0,
    ) -> None:
        if every < 1 or not 0 < fraction <= 1 or weight < 0 or min(weight_ramp_steps, schedule_steps) < 0:
            raise ValueError(
                f"Segment {name}: every={every}, fraction={fraction}, weight={weight}, "
                f"weight_ramp_steps={weight_ramp_steps}, schedule_steps={schedule_steps}; "
                "expected every >= 1, 0 < fraction <= 1, weight >= 0, weight_ramp_steps >= 0, schedule_steps >= 0."
            )
        if schedule_steps and not getattr(objective, "scheduled", False):
            raise ValueError(
                f"Segment {name}: schedule_steps={schedule_steps} has no effect on {type(objective).__name__}, which "
                "has no schedule of its own; expected 0 (weight_ramp_steps is that of the weight)."
            )
        self.name, self.objective, self.weight = name, objective, weight
        self.every, self.fraction = every, fraction
        self.weight_ramp_steps, self.schedule_steps = weight_ramp_steps, schedule_steps

    @property
    def state_key(self) -> str:
        return f"Trajectory/{self.name}"

    def ends(self, t: Tensor, index: Tensor, step: int, seed: int) -> tuple[Tensor, Tensor]:
        """(start [b], end [b]) of the segments at anchor times t [b] of samples index [b].

        A start that is `t` itself, the same object, shares the field at the anchor with the other segments.
        """
        raise NotImplementedError

    def progress(self, step: int) -> float:
        """How far the objective's own schedule has come at an optimizer step, 0 to 1."""
        return linear_ramp(step, self.schedule_steps)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Parameters of the objective itself are trained and saved with the student."""
        if not isinstance(self.objective, nn.Module) or not self._has_parameters():
            return
        module = distillation(pl_module)
        if isinstance(trainer.strategy, ShardedStrategy):
            self.check_sharded(module.recipe.batch_size, parts=1)
        module.laws[self.name] = self.objective

    def _has_parameters(self) -> bool:
        return isinstance(self.objective, nn.Module) and any(True for _ in self.objective.parameters())

    def check_sharded(self, batch_size: int, parts: int) -> None:
        """Raise ValueError for what trainer=fsdp does not support: sharded networks are called by all ranks together.

        Each of the `parts` (devices times micro-batches) of a batch must have a row.
        """
        if self._has_parameters():
            raise ValueError(
                f"Segment {self.name}: the parameters of {type(self.objective).__name__} itself are not sharded under "
                "trainer=fsdp. Choose trainer=ddp, or a setting without them (sCM: adaptive=false)."
            )
        count = max(1, round(batch_size * self.fraction))
        if count < parts:
            raise ValueError(
                f"Segment {self.name} has {count} of batch_size={batch_size} rows, fewer than the {parts} "
                "micro-batches (devices times accumulate), each of which needs one under trainer=fsdp. Raise its "
                "fraction or batch_size, or lower accumulate."
            )

    def plan(self, batch: Batch, step: int, seed: int, global_batch: int) -> SubTrajectory | None:
        """The segment of this step, or None; None too where no row of this micro-batch is chosen."""
        if step % self.every:
            return None
        batch.due.append(self.name)
        count = max(1, round(global_batch * self.fraction))
        rows = None if count == global_batch else chosen_rows(batch.index, global_batch, count)
        if rows is not None and not len(rows):
            return None
        pick = slice(None) if rows is None else rows
        t = batch.t[pick]
        start, end = self.ends(t, batch.index[pick], step, seed)
        weight = self.weight * linear_ramp(step, self.weight_ramp_steps)
        return SubTrajectory(
            name=self.name,
            objective=self.objective,
            start=start,
            end=end,
            count=count,
            rows=rows,
            weight=weight,
            progress=self.progress(step),
            at_anchor=start is t,
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(trainer.strategy, ShardedStrategy):
            batch_size = distillation(pl_module).recipe.batch_size
            self.check_sharded(batch_size, trainer.world_size * trainer.accumulate_grad_batches)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        recipe = distillation(pl_module).recipe
        planned = self.plan(batch, trainer.global_step, recipe.seed, recipe.batch_size)
        if planned is not None:
            batch.plan.append(planned)


class Instantaneous(Trajectory):
    """t -> t: the velocity itself."""

    def ends(self, t: Tensor, index: Tensor, step: int, seed: int) -> tuple[Tensor, Tensor]:
        return t, t


class ToData(Trajectory):
    """t -> 1: one jump to the data."""

    def ends(self, t: Tensor, index: Tensor, step: int, seed: int) -> tuple[Tensor, Tensor]:
        return t, torch.ones_like(t)


class FromNoise(Trajectory):
    """r -> r + (1 - r) t with r = max(0, (1 - step / decay_steps) r_max): from (nearly) pure noise to any time.

    DE-CM Sec. 4.1 (r_max 0.1 over 20,000 steps). `spread` draws each row's r uniformly below that instead.
    """

    def __init__(self, r_max: float = 0.1, decay_steps: int = 20_000, spread: bool = False, **segment: Any) -> None:
        super().__init__(**segment)
        if not 0 <= r_max < 1 or decay_steps < 0:
            raise ValueError(f"r_max={r_max}, decay_steps={decay_steps}; expected 0 <= r_max < 1 and decay_steps >= 0.")
        self.r_max, self.decay_steps, self.spread = r_max, decay_steps, spread

    def ends(self, t: Tensor, index: Tensor, step: int, seed: int) -> tuple[Tensor, Tensor]:
        r = torch.full_like(t, linear_decay(step, self.r_max, self.decay_steps))
        if self.spread:
            r = r * uniform(seed, "r", index).to(t)
        return r, r + (1 - r) * t


class AnyLater(Trajectory):
    """t -> t + (1 - t) u with u uniform, and t -> t for the share `boundary` of the samples (MeanFlow's r = t)."""

    def __init__(self, boundary: float = 0.25, **segment: Any) -> None:
        super().__init__(**segment)
        if not 0 <= boundary < 1:
            raise ValueError(f"boundary={boundary}; expected 0 <= boundary < 1, the share of samples with end = t.")
        self.boundary = boundary

    def ends(self, t: Tensor, index: Tensor, step: int, seed: int) -> tuple[Tensor, Tensor]:
        u = uniform(seed, f"{self.name}/end", index).to(t)
        u = (u - self.boundary).clamp(min=0) / (1 - self.boundary)
        return t, t + (1 - t) * u


class Dyadic(Trajectory):
    """k d -> (k + 1) d around t, with d = 1, 1/2, ..., 2^-(levels - 1) equally often (arXiv:2410.12557 Sec. 3.2)."""

    def __init__(self, levels: int = 7, **segment: Any) -> None:
        super().__init__(**segment)
        if not 1 <= levels <= 20:
            raise ValueError(f"levels={levels}; expected 1 to 20 lengths of the step, from 1 down by halves.")
        self.levels = levels

    def ends(self, t: Tensor, index: Tensor, step: int, seed: int) -> tuple[Tensor, Tensor]:
        level = (uniform(seed, f"{self.name}/level", index).to(t) * self.levels).floor()
        d = torch.exp2(-level)
        start = (t / d).floor() * d
        return start, start + d
