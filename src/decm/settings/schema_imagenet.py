"""Types of the settings about ImageNet: snapshots, and `decm evaluate`; see schema.py."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from decm.settings.schema_paths import PathText


@dataclass
class Snapshots:
    every: int = MISSING
    sigma_rels: list[float] = MISSING
    dtype: str = MISSING


@dataclass
class MovedData:
    path: PathText | None = None


@dataclass
class Evaluate:
    checkpoint: PathText = MISSING
    nfe: list[int] = MISSING
    num_samples: int | None = None
    seed: int | None = None
    batch_size: int | None = None
    samplers: Any = None
    data: MovedData = field(default_factory=MovedData)
    reference: PathText | None = None
    features: str | None = None
    weights: PathText | None = None
    ema_sigma_rel: float | None = None
    save: str | None = None
    out: PathText | None = None
    device: str = MISSING
    debug: bool = MISSING
