"""Types of the settings about reference statistics; see schema.py."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING


@dataclass
class Reference:
    data: Any = None
    images: str | None = None
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
    dinov2: dict[str, str] | None = None
    keep: int = MISSING
    decode: Any = None
