"""The exponential moving average of the student, updated once an optimizer step."""

import numpy as np
import torch
from lightning.pytorch import Trainer

from decm.training.callbacks.base import DistillationCallback
from decm.training.module import DistillationModule
from decm.training.sharding import local


def power_law_exponent(sigma_rel: float) -> float:
    """gamma of a power-law profile of relative width sigma_rel (arXiv:2312.02696 Alg. 2)."""
    inverse = sigma_rel**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(roots.real.max())


def ema_decay(step: int, kind: str, decay: float, sigma_rel: float) -> float:
    """beta after optimizer step `step` (the first is 1): average <- beta average + (1 - beta) student.

    `constant`: min(decay, step / (step + 9)), which warms up; `power`: (1 - 1/step)^(gamma + 1),
    arXiv:2312.02696 Eq. 4.
    """
    if kind == "constant":
        return min(decay, step / (step + 9))
    return (1 - 1 / step) ** (power_law_exponent(sigma_rel) + 1)


class EMA(DistillationCallback):
    """Keeps `module.ema` the moving average of `module.student`. Raises ValueError for bad settings."""

    def __init__(self, kind: str = "constant", decay: float = 0.998, sigma_rel: float = 0.1) -> None:
        if kind not in ("constant", "power") or not 0 <= decay < 1 or not 0 < sigma_rel < 0.28:
            raise ValueError(
                f"ema: kind={kind!r}, decay={decay}, sigma_rel={sigma_rel}; expected kind constant or power, "
                "0 <= decay < 1 and 0 < sigma_rel < 0.28."
            )
        self.kind, self.decay, self.sigma_rel = kind, decay, sigma_rel
        self.step = 0  # optimizer steps averaged

    def on_optimizer_step(self, trainer: Trainer, module: DistillationModule) -> None:
        self.step = trainer.global_step
        if module.step.skipped:
            return
        beta = ema_decay(self.step, self.kind, self.decay, self.sigma_rel)
        average, current = ([local(p) for p in net.parameters()] for net in (module.ema, module.student))
        with torch.no_grad():
            torch._foreach_lerp_(average, current, 1 - beta)

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.step = state_dict["step"]
