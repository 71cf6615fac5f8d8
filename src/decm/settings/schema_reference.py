"""Types of the settings about reference statistics; see schema.py."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from decm.settings.schema_paths import PathText


@dataclass
class Decoder:
    kind: str = MISSING
    path: PathText | None = None
    args: Any = None
    chunk: int = MISSING


@dataclass
class Reference:
    data: Any = None
    images: PathText | None = None
    autoencoder: Decoder = field(default_factory=Decoder)
    out: PathText = MISSING
    split: str = MISSING
    features: str = MISSING
    weights: PathText | None = None
    size: int | None = None
    exif_orientation: bool = MISSING
    on_corrupt: str = MISSING
    keep: int = MISSING
    batch_size: int = MISSING
    device: str = MISSING
    overwrite: bool = MISSING
    debug: bool = MISSING
