"""Types of the settings of `decm latents` and `decm data`, and of the data sets that they make."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING


@dataclass
class Latents:
    action: str = MISSING
    source: str | None = None
    out: str | None = None
    path: str | None = None
    weights: str | None = None
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
    record_size: int = MISSING
    shard_records: int = MISSING
    seed: int = MISSING
    debug: bool = MISSING


@dataclass
class Images:
    images: str = MISSING
    out: str = MISSING
    size: int = MISSING
    channels: int = MISSING
    exif_orientation: bool = MISSING
    on_corrupt: str = MISSING
    heldout: float = MISSING
    num_classes: int | None = None
    seed: int = MISSING
    overwrite: bool = MISSING
    debug: bool = MISSING


@dataclass
class LatentSet:
    _target_: str = MISSING
    path: str = MISSING
    flip: bool = MISSING
    on_corrupt: str = MISSING


@dataclass
class SyntheticSet(LatentSet):
    num: int = MISSING
    shape: list[int] = MISSING
    num_classes: int = MISSING


@dataclass
class StreamedSet:
    _target_: str = MISSING
    path: str = MISSING
    flip: bool = MISSING


DATA: dict[str, type] = {"latents": LatentSet, "latents_stream": StreamedSet, "latents_synth": SyntheticSet}
