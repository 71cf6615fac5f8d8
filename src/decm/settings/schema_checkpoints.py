"""Types of the settings of verbs that take a checkpoint; see schema.py."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from decm.settings.schema_paths import PathText


@dataclass
class Sample:
    checkpoint: PathText = MISSING
    nfe: int = MISSING
    labels: list[Any] | None = None
    rows: int = MISSING
    seed: int = MISSING
    sampler: str | None = None
    batch_size: int = MISSING
    autoencoder: PathText | None = None
    out: PathText = MISSING
    device: str = MISSING
    debug: bool = MISSING


@dataclass
class Consolidate:
    checkpoint: PathText = MISSING
    out: PathText = MISSING
    weights: str = MISSING
    debug: bool = MISSING


@dataclass
class Export:
    run: PathText = MISSING
    out: PathText = MISSING
    format: str = MISSING
    ema_sigma_rel: float | None = None
    overwrite: bool = MISSING
    debug: bool = MISSING
