"""The expected curves of an experiment, with which the evaluations in the loop are compared."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from decm.training.callbacks.base import DistillationCallback
from decm.training.callbacks.evaluation.previews import Evaluate
from decm.training.module import DistillationModule

ROUNDING = 1e-3  # of the shares in a file
ABOVE, WITHIN, BELOW = "above", "within", "below"


@dataclass(frozen=True)
class Curve:
    """What a metric (lower is better) is expected to be at shares `at` of a run, up to a factor `tolerance`.

    Raises ValueError where the shares do not rise within (0, 1], a value is not positive or the tolerance is below 1.
    """

    metric: str
    at: Sequence[float]
    value: Sequence[float]
    tolerance: float

    def __post_init__(self) -> None:
        at, value = list(self.at), list(self.value)
        rises = all(low < high for low, high in zip([0.0, *at], at, strict=False))
        if not at or not rises or not at[-1] <= 1:
            raise ValueError(f"{self._name}.at={at}; expected shares of the run that rise, above 0 and up to 1.")
        if len(value) != len(at) or not all(0 < v < math.inf for v in value):
            raise ValueError(f"{self._name}.value={value}; expected {len(at)} positive numbers, one for each of `at`.")
        if not 1 <= self.tolerance < math.inf:
            raise ValueError(f"{self._name}.tolerance={self.tolerance}; expected a factor of 1 or more.")

    @property
    def _name(self) -> str:
        return f"expected.curves.{self.metric}"

    def __call__(self, share: float) -> float | None:
        """The expected value at a share of the run, log-linear between those of `at`; None before and after them."""
        if not self.at[0] - ROUNDING <= share <= self.at[-1] + ROUNDING:
            return None
        return float(np.exp(np.interp(share, self.at, np.log(self.value))))


class Expected(DistillationCallback):
    """Compares each evaluation in the loop with the curves; logs `expected/<metric>`, the value over the expected one.

    Says where a metric goes above its band (expected value times tolerance), where it comes back, and where it goes
    below, which is good news; at the end whether the run stayed inside, that is, was never above. To be called after
    `evaluate`, whose figures are on the first rank alone.
    """

    def __init__(self, evaluate: Evaluate, curves: Sequence[Curve]) -> None:
        self.evaluate, self.curves = evaluate, curves
        self.ratios: dict[str, float] = {}  # by metric, the last time
        self.sides: dict[str, str] = {}
        self.compared: dict[str, int] = {}  # evaluations
        self.above: dict[str, int] = {}

    def on_optimizer_step(self, trainer: Trainer, module: DistillationModule) -> None:
        step = trainer.global_step
        if step != self.evaluate.acted_at:
            return
        ratios = {}
        for curve in self.curves:
            value, expected = self.evaluate.figures.get(curve.metric), curve(step / trainer.max_steps)
            if value is not None and expected is not None:
                ratios[curve.metric] = self._compare(
                    curve, value, expected, f"{curve.metric} is {value:.4g} at step {step} of {trainer.max_steps}"
                )
        self.ratios |= ratios
        for logger in trainer.loggers if ratios else ():
            logger.log_metrics({f"expected/{metric}": ratio for metric, ratio in ratios.items()}, step=step)

    def _compare(self, curve: Curve, value: float, expected: float, what: str) -> float:
        """Count, and say what is news; the ratio of value to expectation."""
        low, high, metric = expected / curve.tolerance, expected * curve.tolerance, curve.metric
        side = ABOVE if not value <= high else BELOW if value < low else WITHIN  # what is not a number is above
        before = self.sides.get(metric, WITHIN)
        self.sides[metric] = side
        self.compared[metric] = self.compared.get(metric, 0) + 1
        self.above[metric] = self.above.get(metric, 0) + (side == ABOVE)
        if side != before and (side, before) != (WITHIN, BELOW):
            news = {
                ABOVE: "the run has left its expected curve",
                WITHIN: "back on its expected curve",
                BELOW: "better than its expected curve",
            }
            print(f"{what}, expected {low:.3g} to {high:.3g}: {news[side]}.", flush=True)
        return value / expected

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and trainer.global_step >= trainer.max_steps:
            print(self.verdict(), flush=True)

    def verdict(self) -> str:
        """Whether the run stayed inside, and where it ended."""
        left = [f"{m} was above it at {n} of {self.compared[m]} evaluations" for m, n in self.above.items() if n]
        last = [f"{metric} {ratio:.3g}" for metric, ratio in self.ratios.items()]
        missing = [curve.metric for curve in self.curves if curve.metric not in self.compared]
        parts = []
        if last:
            parts.append(f"the run left it: {', '.join(left)}" if left else "the run stayed inside")
            parts.append(f"times the expected value at the last evaluation: {', '.join(last)}")
        if missing:
            parts.append(f"not compared, since not evaluated where the curve has values: {', '.join(missing)}")
        return f"Expected curve: {'; '.join(parts)}."

    def report(self) -> dict[str, dict[str, Any]]:
        """By metric, the ratio at the last evaluation that was compared, and whether none was above."""
        return {m: {"ratio_at_end": ratio, "inside": not self.above[m]} for m, ratio in self.ratios.items()}

    def state_dict(self) -> dict[str, Any]:
        return {key: dict(getattr(self, key)) for key in ("ratios", "sides", "compared", "above")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for key, value in state_dict.items():
            setattr(self, key, dict(value))
