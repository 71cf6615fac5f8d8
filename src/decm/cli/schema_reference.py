"""Types of the settings about reference statistics; see schema.py."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class Decoder:
    kind: str = MISSING
    weights: str | None = None
    settings: Any = None


@dataclass
class Dinov2:
    reference: str | None = None
    weights: str | None = None


@dataclass
class Reference:
    data: Any = None
    images: str | None = None
    autoencoder: Decoder = field(default_factory=Decoder)
    out: str = MISSING
    split: str = MISSING
    features: str = MISSING
    weights: str | None = None
    size: int | None = None
    keep: int = MISSING
    batch_size: int = MISSING
    device: str = MISSING
    overwrite: bool = MISSING
    debug: bool = MISSING


@dataclass
class ImageStatistics:
    _target_: str = MISSING
    reference: str = MISSING
    features: str = MISSING
    weights: str | None = None
    dinov2: Dinov2 = field(default_factory=Dinov2)
    keep: int = MISSING
    autoencoder: Decoder = field(default_factory=Decoder)
