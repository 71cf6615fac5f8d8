"""Types of the settings of `decm latents` and `decm data`; see schema.py."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from decm.settings.schema_paths import PathText


@dataclass
class Latents:
    action: str = MISSING
    source: PathText | None = None
    out: PathText | None = None
    path: PathText | None = None
    weights: PathText | None = None
    kind: str = MISSING
    autoencoder: Any = None
    image_size: int = MISSING
    exif_orientation: bool = MISSING
    on_corrupt: str = MISSING
    latent: str = MISSING
    flip: bool = MISSING
    dtype: str = MISSING
    batch_size: int = MISSING
    workers: int = MISSING
    device: str = MISSING
    num: int = MISSING
    shape: list[int] = MISSING
    num_classes: int | None = None
    class_names: PathText | None = None
    record_size: int = MISSING
    shard_records: int = MISSING
    seed: int = MISSING
    debug: bool = MISSING


@dataclass
class Images:
    images: PathText = MISSING
    out: PathText = MISSING
    size: int = MISSING
    channels: int = MISSING
    exif_orientation: bool = MISSING
    on_corrupt: str = MISSING
    heldout: float = MISSING
    num_classes: int | None = None
    class_names: PathText | None = None
    seed: int = MISSING
    overwrite: bool = MISSING
    debug: bool = MISSING
