"""Every k steps: the same seeds at several NFEs from the EMA, beside the teacher, and a quick evaluation."""

import gc
from collections.abc import Collection, Sequence
from pathlib import Path

from lightning.pytorch import Trainer
from torch import Tensor

from decm.evaluation.evaluator import Evaluator
from decm.evaluation.pictures import Painter
from decm.evaluation.points import MapErrors
from decm.flow.flow_map import FlowMap
from decm.training.callbacks.base import DistillationCallback
from decm.training.module import DistillationModule


class Periodic(DistillationCallback):
    """Does something with the averaged student every `every` optimizer steps (0: never), on all ranks.

    On all, since they share the work, and since a sharded network cannot be called by one of them alone.
    """

    def __init__(self, every: int, nfes: Sequence[int], evaluator: Evaluator, trained_on: Collection[str]) -> None:
        self.every, self.nfes, self.evaluator, self.trained_on = every, nfes, evaluator, trained_on
        self.acted_at = 0  # the last optimizer step of it

    def on_optimizer_step(self, trainer: Trainer, module: DistillationModule) -> None:
        if self.every > 0 and trainer.global_step % self.every == 0:
            self.acted_at = trainer.global_step
            self.evaluator.device = module.device
            self.act(trainer, module.ema_map)
            gc.collect()  # figures and logged pictures refer to themselves, and would stay for thousands of steps

    def act(self, trainer: Trainer, student: FlowMap) -> None:
        """What is done, on each rank alike up to what the first one writes."""
        raise NotImplementedError


class Previews(Periodic):
    """Writes `folder/step_<n>.png`: a row for the teacher (its most steps) and one for each NFE, the same seeds."""

    def __init__(
        self,
        every: int,
        nfes: Sequence[int],
        evaluator: Evaluator,
        painter: Painter,
        folder: Path,
        trained_on: Collection[str],
        teacher: FlowMap | None,
    ) -> None:
        super().__init__(every, nfes, evaluator, trained_on)
        self.painter, self.folder, self.teacher = painter, folder, teacher
        self._teacher_row: dict[str, Tensor | None] | None = None

    def teacher_row(self) -> dict[str, Tensor | None]:
        """The teacher's samples at the most steps, computed once."""
        if self._teacher_row is None:
            most = max(self.nfes)
            self._teacher_row = {}
            if self.teacher is not None:
                samples = self.evaluator.samples(self.teacher, most, self.painter.columns, ())
                self._teacher_row = {f"teacher, {most}": samples}
        return self._teacher_row

    def act(self, trainer: Trainer, student: FlowMap) -> None:
        rows = dict(self.teacher_row())
        for nfe in self.nfes:
            samples = self.evaluator.samples(student, nfe, self.painter.columns, self.trained_on)
            rows[f"{nfe} step{'s' if nfe > 1 else ''}"] = samples
        made = {title: samples for title, samples in rows.items() if samples is not None}
        if not made:  # on ranks but the first
            return
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"step_{trainer.global_step:06d}.png"
        self.painter.compare(made, path)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("samples", [str(path)], step=trainer.global_step)


class Evaluate(Periodic):
    """Every k steps: `fd/<nfe>` of the EMA with fewer samples than at the end, and `map_error/<map>` in 2-D."""

    def __init__(
        self,
        every: int,
        nfes: Sequence[int],
        num_samples: int,
        evaluator: Evaluator,
        map_errors: MapErrors | None,
        trained_on: Collection[str],
    ) -> None:
        super().__init__(every, nfes, evaluator, trained_on)
        self.num_samples, self.map_errors = num_samples, map_errors
        self.figures: dict[str, float] = {}  # the last ones, as they are logged; none on ranks but the first
        self.value: float | None = None  # at the fewest steps, the last time; None on ranks but the first

    def act(self, trainer: Trainer, student: FlowMap) -> None:
        scores = self.evaluator(student, self.nfes, self.num_samples, self.trained_on)
        errors = self.map_errors(student, self.evaluator.device) if self.map_errors is not None else {}
        if scores is None:  # on ranks but the first
            return
        figures = {f"fd/{nfe}": score["value"] for nfe, score in scores.items()}
        self.value = float(figures[f"fd/{min(self.nfes)}"])
        self.figures = figures | {f"map_error/{name}": value for name, value in errors.items()}
        for logger in trainer.loggers:
            logger.log_metrics(self.figures, step=trainer.global_step)
