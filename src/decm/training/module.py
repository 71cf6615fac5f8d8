"""The training step: draw the anchor; each planned objective asks for its rows; one student call; targets; losses."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from decm.flow.flow_map import FlowMap
from decm.flow.path import conditional_velocity, interpolate, moved
from decm.flow.randomness import normal, uniform
from decm.flow.times import stratified_times
from decm.flow.velocity import Field, GuidedVelocity
from decm.networks.regions import regions
from decm.objectives.base import Batch, Rows
from decm.objectives.norms import root_mean_square
from decm.training.cost import FORWARD_BACKWARD, CountedRows, WithoutGradient, cost_with_derivative, counted
from decm.training.sharding import Sharding, gathered, shard, skeleton
from decm.training.step import MicroBatch, OptimizerStep
from decm.training.student_call import call_student

TEACHER = "teacher."


@dataclass(frozen=True)
class Teacher:
    """What the student imitates: a velocity field, and the network behind it if it has weights to move and freeze."""

    field: Field
    network: nn.Module | None = None


@dataclass(frozen=True)
class Recipe:
    """How to draw the anchor and to step: everything random is a function of (seed, purpose, sample)."""

    seed: int
    batch_size: int  # samples an optimizer step, over all devices
    optimizer: Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]
    schedule: Callable[[int], float]  # the learning rate's factor at an optimizer step
    label_drop: float = 0.0
    times: Callable[[Tensor], Tensor] | None = None  # an increasing map of the stratified uniform times
    jvp: str = "dual"
    fused: bool = True


class NonFiniteLossError(FloatingPointError):
    """A loss is NaN or infinite; the message names the segment and the step."""

    exit_code = 1


def no_teacher(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """The field of a run without a teacher, whose velocity x - z is known on the anchor's own path only."""
    raise ValueError(
        "This objective needs the velocity away from the anchor's path, which x - z does not give. "
        "Choose a teacher (teacher=auto, checkpoint or exact), or remove the segment."
    )


class DistillationModule(LightningModule):
    """Teacher (frozen, not in checkpoints), student, and the EMA of the student alone."""

    def __init__(
        self, student: nn.Module, teacher: Teacher | None, recipe: Recipe, sharding: Sharding | None = None
    ) -> None:
        super().__init__()
        self.sharding = sharding or Sharding()
        self.student = student
        self.ema = copy.deepcopy(student).requires_grad_(False)
        self.field: Field = teacher.field if teacher else no_teacher
        self.teacher_calls = CountedRows(no_teacher)
        if isinstance(self.field, GuidedVelocity):
            self.field.net = self.teacher_calls = counted(self.field.net)
        self.teacher = teacher.network if teacher else None
        if self.teacher is not None:
            self.teacher.eval().requires_grad_(False)
        self.has_teacher = teacher is not None
        self.recipe = recipe
        self.laws = nn.ModuleDict()  # objectives with parameters of their own, by segment
        self.student_map = FlowMap(student, recipe.jvp)
        self.skeletons: dict[str, nn.Module] = {}  # of the sharded networks that are sampled in the end
        self.step = OptimizerStep(0)  # the current one, or the last one
        self._stop_requested = False  # by this rank
        self.forward_equivalents = 0.0  # of the network, over all ranks, teacher included

    @property
    def ema_map(self) -> FlowMap:
        """The flow map of the averaged student, which is what gets sampled."""
        return FlowMap(self.ema)

    def configure_model(self) -> None:
        """Shard the three networks where the strategy has a mesh (FSDP2); Lightning calls it first of all.

        EMA and teacher are used without gradient: the EMA, which changes, is gathered anew in each pass.
        """
        if self._device_mesh is None or isinstance(self.student, FSDPModule):
            return
        mesh, how = self._device_mesh["data_parallel"], self.sharding
        self.skeletons = {name: skeleton(net) for name, net in self._frozen().items()}
        if how.dtype is not None:
            self.skeletons["student"] = skeleton(self.student)  # for the check of its tangents
        shard(self.student, mesh, how.dtype, how.reshard)
        shard(self.ema, mesh, how.dtype, reshard=True)
        if self.teacher is not None:
            shard(self.teacher, mesh, how.dtype, how.reshard)

    def _frozen(self) -> dict[str, nn.Module]:
        return {"ema": self.ema} if self.teacher is None else {"ema": self.ema, "teacher": self.teacher}

    def gather(self) -> nn.Module | None:
        """Whole averages and teacher in place of sharded ones, so that a rank can use them alone; all ranks call it.

        Returns the teacher.
        """
        for name, net in self._frozen().items():
            if name in self.skeletons:
                setattr(self, name, gathered(self.skeletons.pop(name), net))
        if self.teacher is not None:
            self.teacher_calls.net = self.teacher
        return self.teacher

    def draw(self, batch: dict[str, Tensor]) -> Batch:
        """Draw the anchor: noise z, time t and label drop of each sample, from its index in the run.

        The loader has it done ahead, by a thread; on the CPU, in pinned memory where the run is on a GPU.
        """
        x, y, index = batch["x"], batch["y"], batch["index"]
        recipe = self.recipe
        z = normal(recipe.seed, "noise", index, x.shape[1:]).to(x)
        t = stratified_times(recipe.seed, index, recipe.batch_size)
        t = recipe.times(t) if recipe.times else t
        if recipe.label_drop:
            dropped = uniform(recipe.seed, "label_drop", index) < recipe.label_drop
            y = torch.where(dropped, int(self.student.num_classes), y)  # type: ignore[arg-type]
        if self.device.type == "cuda" and torch.cuda.is_available():
            with torch.cuda.device(self.device):  # a thread begins at the first GPU
                x, z, y = x.pin_memory(), z.pin_memory(), y.pin_memory()
        return Batch(x, z, t, y, index)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Times and indices stay on the CPU; the host waits for no copy."""
        return Batch(moved(batch.x, device), moved(batch.z, device), batch.t, moved(batch.y, device), batch.index)

    def request_stop(self) -> None:
        """Ask all ranks to end the run after this optimizer step; `step.stop_agreed` says that they know."""
        self._stop_requested = True

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The sum of what was planned. Raises ValueError for an empty plan."""
        if not batch.plan and not batch.due:
            raise ValueError("No segment was planned for this step: `method` has no entry that acts at every step.")
        self.teacher_calls.rows = 0  # previews and evaluations call it too
        if self.has_teacher:
            v = self.field(interpolate(batch.x, batch.z, moved(batch.t, batch.x.device)), batch.t, batch.y)
        else:
            v = conditional_velocity(batch.x, batch.z)
        segments = [batch.segment(sub, v, shared_everywhere=not self.has_teacher) for sub in batch.plan]
        student = WithoutGradient(self.student)
        average = WithoutGradient(lambda *rows: self.ema(*rows))  # looked up late, since not every step needs it
        for segment in segments:
            segment.student, segment.average = student, average
        asked = [sub.objective.ask(segment, self.field) for sub, segment in zip(batch.plan, segments, strict=True)]
        values = call_student(self.student_map, asked, self.recipe.fused)
        if not values:  # no row of what is due lies in this micro-batch
            self._record(batch, {}, self._cost([]))
            return torch.stack([0 * p.sum() for p in self.student.parameters()]).sum()

        share = self.trainer.world_size * self.trainer.accumulate_grad_batches  # so that the global mean comes out
        total = torch.zeros((), device=batch.x.device)
        figures = {}
        for sub, segment, (F, dF) in zip(batch.plan, segments, values, strict=True):
            with torch.no_grad():
                aim = sub.objective.aim(segment, F.detach(), dF, self.field)
            loss = sub.objective.measure(segment, F, aim).sum() * share / sub.count
            figures[f"loss/{sub.name}"] = loss.detach()
            figures[f"tangent/{sub.name}"] = root_mean_square(aim.tangent).sum() * share / sub.count
            total = total + sub.weight * loss
        self._record(batch, figures | {"total": total.detach()}, self._cost(asked) + student.rows + average.rows)
        return total

    def _record(self, batch: Batch, figures: dict[str, Tensor], cost: int) -> None:
        """Add this micro-batch to the step's record, without reading it."""
        names = [f"{kind}/{name}" for name in batch.due for kind in ("loss", "tangent")] + ["total"]
        zero = batch.x.new_zeros(())  # of a segment without a row in this micro-batch
        here = [figures.get(name, zero) for name in names] + [zero + cost, zero + self._stop_requested]
        parts = self.trainer.accumulate_grad_batches
        if self.step.micro_batches % parts == 0:
            self.step = OptimizerStep(self.trainer.global_step)
        self.step.add(MicroBatch(batch, figures), tuple(names), torch.stack(here))
        if self.step.micro_batches == parts and self.step.stop_held:
            self.trainer.should_stop = True

    def read_step(self, *more: Tensor) -> list[float]:
        """Read the completed step's figures, log them, and return the numbers `more`; all ranks call it once."""
        numbers = self.step.read(lambda table: self.trainer.strategy.reduce(table, reduce_op="mean"), *more)
        self.forward_equivalents += self.step.cost * self.trainer.world_size
        for name in self.step.names[:-1]:
            self.log_step(name, self.step.mean(name))
        return numbers

    def log_step(self, name: str, value: float) -> None:
        """Log a figure of this step, if the loggers get this one: Lightning's own bookkeeping takes a millisecond."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (self.step.number + 1) % every == 0:
            self.log(name, value, batch_size=1)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise NonFiniteLossError for a loss that is not finite, unless a callback (Guard) skips the step."""
        if self.step.example is None:  # nobody has read it
            self.read_step()
        if self.step.bad_losses and not self.step.skipped:
            bad = [name for name, value in self.step.bad_losses.items() if not math.isfinite(value)]
            assert self.step.example is not None
            index = self.step.example.batch.index
            raise NonFiniteLossError(
                f"The loss of {', '.join(bad) or 'the sum'} is not finite at optimizer step {self.step.number} "
                f"(samples {int(index[0])} to {int(index[-1])}, seed {self.recipe.seed}). "
                "The last checkpoint is from before it. Lower the learning rate, or choose another form of the loss."
            )

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep Lightning from stopping within an optimizer step; `_record` restores the wish at its end."""
        if self.step.micro_batches < self.trainer.accumulate_grad_batches:
            self.step.stop_held |= self.trainer.should_stop
            self.trainer.should_stop = False

    def _cost(self, asked: list[Rows]) -> int:
        """Forward-equivalents of this rank's step: rows of student and teacher that went through a network."""
        again = any(block.checkpointed for block in regions(self.student).values())  # a second forward of each row
        plain = FORWARD_BACKWARD + again
        with_derivative = cost_with_derivative(self.recipe.jvp, self.student) + again
        rows = sum((with_derivative if part.tangents else plain) * len(part.x) for part in asked)
        return rows + self.teacher_calls.rows

    def configure_optimizers(self) -> Any:
        optimizer = self.recipe.optimizer(chain(self.student.parameters(), self.laws.parameters()))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.recipe.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The teacher stays out: it is reloadable from its path."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {key: value for key, value in state.items() if not key.startswith(TEACHER)}
        checkpoint["forward_equivalents"] = self.forward_equivalents

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The teacher that is already loaded stands for the one that was not saved, so that loading stays strict."""
        own = {key: value for key, value in self.state_dict().items() if key.startswith(TEACHER)}
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **own}
        self.forward_equivalents = checkpoint["forward_equivalents"]
