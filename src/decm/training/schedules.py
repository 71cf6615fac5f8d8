"""Schedules as pure functions of the optimizer step: of a segment's start and weight, and of the learning rate."""

import math


def linear_decay(step: int, start: float, steps: int) -> float:
    """max(0, (1 - step / steps) start): DE-CM's decay of r, from start = 0.1 over 20,000 steps."""
    return max(0.0, 1 - step / steps) * start if steps else 0.0


def linear_ramp(step: int, steps: int) -> float:
    """min(1, step / steps); 1 where steps is 0."""
    return min(1.0, step / steps) if steps else 1.0


def warmup_cosine(step: int, warmup: int, total: int, final: float = 0.0) -> float:
    """The learning rate's factor: linear from 1/warmup to 1 over `warmup` steps, then a half cosine to `final`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_constant(step: int, warmup: int) -> float:
    """The learning rate's factor: linear from 1/warmup to 1, then constant (DE-CM's ImageNet setting)."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0
