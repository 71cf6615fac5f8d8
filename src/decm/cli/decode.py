"""From the states of a data set to uint8 images: its own pixels, or what an autoencoder makes of its latents."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from decm.data.manifest import Manifest, to_pixels

ToPixels = Callable[[Tensor], Tensor]


def pixels_of(manifest: Manifest, autoencoder: Mapping[str, Any] | None, key: str = "autoencoder") -> ToPixels:
    """states [B, C, H, W] -> uint8 [B, 1 or 3, H, W] on the CPU; `autoencoder` has kind, weights and settings.

    It is taken as absent while its weights are None.
    Raises ValueError for latents without an autoencoder, naming the setting `key`, and for images with one.
    """
    given = autoencoder is not None and autoencoder["weights"] is not None
    latents = manifest.extra.get("kind") == "latents"
    if latents and not given:
        raise ValueError(
            f"Data {manifest.name!r} are latents, which only an autoencoder shows as images: set {key}.weights to its "
            "file, and kind to f16d32 (VA-VAE) or f8d4 (SD-VAE)."
        )
    if autoencoder is None or not given:
        if manifest.shape[0] not in (1, 3):
            raise ValueError(f"Data {manifest.name!r} has states of shape {manifest.shape}, which are no images.")
        return lambda x: to_pixels(x, manifest)
    if not latents:
        raise ValueError(f"Data {manifest.name!r} are no latents; leave {key}.weights out.")
    from decm.cli.encode import build_autoencoder

    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = {"half_precision": None, **(autoencoder["settings"] or {})}  # bfloat16 on CUDA
    network, _ = build_autoencoder(autoencoder["kind"], settings, autoencoder["weights"])
    network.to(device)
    mean, std = (torch.tensor(values)[:, None, None] for values in (manifest.mean, manifest.std))

    def decode(x: Tensor) -> Tensor:
        images = network.decode((x.cpu() * std + mean).to(device))
        return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()

    return decode
