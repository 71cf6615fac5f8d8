"""Every k steps: the same seeds at several NFEs from the EMA, beside the teacher, and a quick evaluation."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from decm.evaluation.evaluator import Evaluator
from decm.evaluation.pictures import Painter
from decm.evaluation.points import MapErrors
from decm.flow.flow_map import FlowMap


def due(trainer: Trainer, every: int, last: int) -> bool:
    """Whether a callback that acts every `every` optimizer steps (0: never) acts now, having acted at step `last`."""
    step = trainer.global_step
    return every > 0 and step > 0 and step % every == 0 and step != last


class Previews(Callback):
    """Writes `folder/step_<n>.png`: a row for the teacher (its most steps) and one for each NFE, the same seeds."""

    def __init__(
        self, every: int, nfes: Sequence[int], evaluator: Evaluator, painter: Painter, folder: Path,
        trained_on: Collection[str], teacher: FlowMap | None,
    ) -> None:  # fmt: skip
        self.every, self.nfes, self.evaluator, self.painter = every, nfes, evaluator, painter
        self.folder, self.trained_on, self.teacher = folder, trained_on, teacher
        self._teacher_row: dict[str, Tensor] | None = None
        self._last = 0

    def teacher_row(self) -> dict[str, Tensor]:
        """The teacher's samples at the most steps, computed once."""
        if self._teacher_row is None:
            most = max(self.nfes)
            self._teacher_row = {}
            if self.teacher is not None:
                samples = self.evaluator.samples(self.teacher, most, self.painter.columns, ())
                self._teacher_row = {f"teacher, {most}": samples}
        return self._teacher_row

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not due(trainer, self.every, self._last):
            return
        self._last = trainer.global_step
        rows = dict(self.teacher_row())
        for nfe in self.nfes:
            samples = self.evaluator.samples(pl_module.ema_map, nfe, self.painter.columns, self.trained_on)  # type: ignore[arg-type]
            rows[f"{nfe} step{'s' if nfe > 1 else ''}"] = samples
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"step_{trainer.global_step:06d}.png"
        self.painter.compare(rows, path)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("samples", [str(path)], step=trainer.global_step)


class Evaluate(Callback):
    """Every k steps: `fd/<nfe>` of the EMA with fewer samples than at the end, and `map_error/<map>` in 2-D."""

    def __init__(
        self, every: int, nfes: Sequence[int], num_samples: int, evaluator: Evaluator, map_errors: MapErrors | None,
        trained_on: Collection[str],
    ) -> None:  # fmt: skip
        self.every, self.nfes, self.num_samples = every, nfes, num_samples
        self.evaluator, self.map_errors, self.trained_on = evaluator, map_errors, trained_on
        self._last = 0

    @rank_zero_only
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not due(trainer, self.every, self._last):
            return
        self._last = trainer.global_step
        flow_map: FlowMap = pl_module.ema_map  # type: ignore[assignment]
        scores = self.evaluator(flow_map, self.nfes, self.num_samples, self.trained_on)
        figures = {f"fd/{nfe}": score["value"] for nfe, score in scores.items()}
        if self.map_errors is not None:
            errors = self.map_errors(flow_map, self.evaluator.device)
            figures.update({f"map_error/{name}": value for name, value in errors.items()})
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=trainer.global_step)
