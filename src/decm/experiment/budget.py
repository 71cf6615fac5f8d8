"""`budget=`: how many steps a cost allows, so that methods are compared at the same cost."""

import torch
from omegaconf import DictConfig

from decm.checkpoints.first_process import is_first
from decm.experiment.build import build_network
from decm.experiment.dry_run import forward_equivalents


def apply_budget(cfg: DictConfig, say: bool = True) -> None:
    """Set max_steps to the most steps whose forward-equivalents, student and teacher, stay within `budget`, if there
    is one; schedules that follow max_steps see it. Raises ValueError where the budget does not pay one step.
    """
    if cfg.budget is None:
        return
    if not cfg.distill:
        raise ValueError(f"budget={cfg.budget:g} is of a distillation; with distill=false there is none.")
    with torch.device("meta"):
        student = build_network(cfg.network, 0)

    def cost(steps: int) -> float:
        cfg.max_steps = steps
        return forward_equivalents(cfg, student)

    one = cost(1)
    if not cfg.budget >= one:
        raise ValueError(f"budget={cfg.budget:g} forward-equivalents; one step of these settings takes {one:g}.")
    low, high = 1, 2  # what is within it, and what may not be: the cost rises with the steps
    while cost(high) <= cfg.budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= cfg.budget else (low, middle)
    cfg.max_steps = low
    if say and is_first():
        print(f"budget {cfg.budget:.4g} forward-equivalents: {low:,} steps", flush=True)
