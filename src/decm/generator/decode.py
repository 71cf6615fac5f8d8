"""From the states of a data set to uint8 images: its own pixels, an autoencoder's, or a projection of its latents."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

import torch
from torch import Tensor

from decm.checkpoints.checksums import file_digest
from decm.data.manifest import Manifest, to_pixels
from decm.flow.randomness import normal

if TYPE_CHECKING:
    from decm.networks.autoencoder import Autoencoder

PROJECTION = "projection"
PROJECTED = "pictures are a linear projection of latents, no autoencoder"
SPREAD = 48.0  # 8-bit levels to a standard deviation of a projected channel


class AutoencoderSettings(TypedDict):
    """Which autoencoder decodes latents; none while `path` is None, unless its kind is projection."""

    kind: str
    path: str | None
    args: Mapping[str, Any] | None  # in place of the kind's
    chunk: int  # latents decoded at a time


class Decoder(Protocol):
    """States [B, C, h, w] -> uint8 images [B, 1 or 3, H, W] on the CPU."""

    note: str  # what every table must say
    metadata: dict[str, Any]  # what identifies it

    def __call__(self, x: Tensor) -> Tensor: ...


class Pixels:
    """The states are images themselves, normalized."""

    note = ""

    def __init__(self, manifest: Manifest) -> None:
        if manifest.shape[0] not in (1, 3):
            raise ValueError(f"Data {manifest.name!r} has states of shape {manifest.shape}, which are no images.")
        self.manifest = manifest
        self.metadata: dict[str, Any] = {"kind": "pixels"}

    def __call__(self, x: Tensor) -> Tensor:
        return to_pixels(x, self.manifest)


class Projection:
    """States [B, C, h, w] -> uint8 pictures [B, 3, h, w]: 127.5 + 48 P x, clipped; P [3, C] is fixed, of unit rows.

    It stands in for an autoencoder where there is none, as for synthetic latents. Each table says so.
    """

    note = PROJECTED

    def __init__(self, channels: int) -> None:
        rows = normal(0, "latents/projection", torch.arange(3), (channels,))
        self.matrix = rows / rows.norm(dim=1, keepdim=True)  # [3, C]
        self.metadata: dict[str, Any] = {"kind": PROJECTION}

    def __call__(self, x: Tensor) -> Tensor:
        colors = torch.einsum("kc,bchw->bkhw", self.matrix, x.float().cpu())
        return (127.5 + SPREAD * colors).round().clamp(0, 255).to(torch.uint8)


class Decoded:
    """States [B, C, h, w] -> uint8 pictures [B, 3, H, W] by an autoencoder of a local file, `chunk` at a time."""

    note = ""

    def __init__(self, manifest: Manifest, settings: AutoencoderSettings, key: str, device: str) -> None:
        overrides = {"half_precision": None, **(settings["args"] or {})}  # bfloat16 on CUDA
        self.autoencoder, self.metadata = build_autoencoder(settings["kind"], overrides, str(settings["path"]))
        if self.autoencoder.latent_channels != manifest.shape[0]:
            raise ValueError(
                f"The autoencoder {settings['path']} has latents of {self.autoencoder.latent_channels} channels, but "
                f"data set {manifest.name!r} has {manifest.shape[0]}. Set {key} to its maker."
            )
        self.autoencoder.to(device)
        self.chunk = settings["chunk"]
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (manifest.mean, manifest.std))

    def __call__(self, x: Tensor) -> Tensor:
        images = self.autoencoder.decode(x.float().cpu() * self.std + self.mean, self.chunk)
        return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def build_autoencoder(kind: str, overrides: dict[str, Any], weights: str) -> "tuple[Autoencoder, dict[str, Any]]":
    """The autoencoder of a kind with settings of its own in place of the kind's, and the metadata that identify it.

    Encodes in float32 unless `half_precision` says otherwise. Raises ValueError for an unknown kind or setting.
    """
    try:
        from decm.networks.autoencoder import KINDS, Autoencoder
    except ImportError as error:
        raise ValueError(str(error)) from error
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is no autoencoder. Choose one of {', '.join(KINDS)}.")
    settings = {"half_precision": False, **KINDS[kind], **overrides}
    try:
        autoencoder = Autoencoder(**settings)
    except TypeError as error:
        raise ValueError(f"autoencoder={overrides} is not understood ({error}).") from error
    autoencoder.load(weights)
    plain = {key: list(value) if isinstance(value, tuple | list) else value for key, value in settings.items()}
    return autoencoder, {
        "kind": kind,
        **plain,
        "weights": Path(weights).name,
        "weights_sha256": file_digest(Path(weights)),
    }


def build_decoder(
    manifest: Manifest, autoencoder: AutoencoderSettings, key: str = "autoencoder", device: str = "cpu"
) -> Decoder:
    """The way from the states of a set to images.

    Raises ValueError for latents without an autoencoder, by the setting `key`, and for images with one.
    """
    projected = autoencoder["kind"] == PROJECTION
    given = projected or autoencoder["path"] is not None
    if manifest.extra.get("kind") != "latents":
        if given:
            raise ValueError(f"Data {manifest.name!r} are no latents; leave {key} out.")
        return Pixels(manifest)
    if not given:
        raise ValueError(
            f"{key}.path is not set, and data {manifest.name!r} are latents: pictures need the weights of the "
            f"autoencoder that made them. Set {key}.path to the file, and {key}.kind to f16d32 (VA-VAE) or f8d4 "
            f"(SD-VAE); or {key}.kind={PROJECTION} to try things out without one."
        )
    return Projection(manifest.shape[0]) if projected else Decoded(manifest, autoencoder, key, device)
