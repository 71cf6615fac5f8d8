"""Types of the settings about machine, loggers, faults and expected curves; see schema.py."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from decm.settings.schema_paths import PathText


@dataclass
class Trainer:
    accelerator: str = MISSING
    devices: Any = MISSING
    strategy: str = MISSING
    num_nodes: int = MISSING
    precision: str = MISSING
    compile: Any = MISSING
    activation_checkpointing: bool = MISSING
    reshard: bool = MISSING
    threads: int | None = MISSING
    clip_norm: float | None = MISSING
    log_every: int = MISSING
    checkpoint_every: int = MISSING
    keep: int = MISSING


@dataclass
class Logger:
    kind: str = MISSING
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    mode: str | None = None
    dir: PathText | None = None


@dataclass
class Guard:
    patience: int = MISSING
    rollbacks: int = MISSING
    spike: float = MISSING
    hang_timeout: float = MISSING


@dataclass
class Faults:
    kill_at_step: int | None = None
    nan_at_step: int | None = None
    nan_steps: int = MISSING
    nan_again: bool = MISSING
    hang_rank: int | None = None
    hang_at_step: int = MISSING
    truncate_checkpoint: int | None = None
    rank: int = MISSING
    force: bool = MISSING


@dataclass
class ExpectedCurve:
    at: list[float] = MISSING
    value: list[float] = MISSING
    tolerance: float = MISSING


@dataclass
class Expected:
    experiment: str | None = None
    curves: dict[str, ExpectedCurve] = field(default_factory=dict)
