"""Types of the settings of objectives and segments; see schema.py."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING


@dataclass
class Target:
    _target_: str = MISSING


@dataclass
class FlowMatching(Target):
    cosine: float = MISSING


@dataclass
class Consistency(Target):
    form: str = MISSING
    power: float = MISSING


@dataclass
class NoiseToNoisy(Target):
    end: float = MISSING
    start: float = MISSING
    clamp: float | None = MISSING


@dataclass
class MeanFlow(Target):
    power: float = MISSING
    c: float = MISSING


@dataclass
class AlphaFlow(MeanFlow):
    sharpness: float = MISSING
    eta: float = MISSING


@dataclass
class SCM(Target):
    c: float = MISSING
    adaptive: bool = MISSING


@dataclass
class DiscreteConsistency(Target):
    q: float = MISSING
    stages: int = MISSING
    k: float = MISSING
    b: float = MISSING
    c: float = MISSING


@dataclass
class Shortcut(Target):
    averaged: bool = MISSING


@dataclass
class Segment(Target):
    name: str = MISSING
    objective: Any = MISSING
    weight: float = MISSING
    every: int = MISSING
    fraction: float = MISSING
    ramp_steps: int = MISSING
    schedule_steps: int = MISSING


@dataclass
class FromNoise(Segment):
    r_max: float = MISSING
    decay_steps: int = MISSING
    spread: bool = MISSING


@dataclass
class AnyLater(Segment):
    boundary: float = MISSING


@dataclass
class Dyadic(Segment):
    levels: int = MISSING


OBJECTIVES: dict[str, type] = {
    "flow_matching": FlowMatching, "consistency": Consistency, "noise_to_noisy": NoiseToNoisy, "mean_flow": MeanFlow,
    "alpha_flow": AlphaFlow, "scm": SCM, "discrete_consistency": DiscreteConsistency, "shortcut": Shortcut,
}  # fmt: skip
SEGMENTS: dict[str, type] = {"segment": Segment, "from_noise": FromNoise, "any_later": AnyLater, "dyadic": Dyadic}
