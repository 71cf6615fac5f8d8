"""Types of the settings of verbs that take a checkpoint; see schema.py."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING


@dataclass
class Sample:
    checkpoint: str = MISSING
    nfe: int = MISSING
    labels: list[Any] | None = None
    rows: int = MISSING
    seed: int = MISSING
    sampler: str | None = None
    batch_size: int = MISSING
    autoencoder: str | None = None
    out: str = MISSING
    device: str = MISSING
    debug: bool = MISSING


@dataclass
class Consolidate:
    checkpoint: str = MISSING
    out: str = MISSING
    weights: str = MISSING
    debug: bool = MISSING


@dataclass
class Export:
    run: str = MISSING
    out: str = MISSING
    format: str = MISSING
    ema_sigma_rel: float | None = None
    overwrite: bool = MISSING
    debug: bool = MISSING
