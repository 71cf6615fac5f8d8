"""Feature extractors: networks that turn uint8 images into the vectors whose distributions are compared.

Every one reads a local weights file and downloads nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

KEY = "evaluation.protocol.weights"


class Extractor(Protocol):
    """Named features of uint8 images; `dims` has the width of each."""

    name: str
    metric: str  # what the Frechet distance of the features `pool` is called
    resize: str  # how images come to the network's size
    note: str  # what every table must say
    meaningless: bool  # whether the numbers say nothing about quality
    labels_are_classes: bool  # whether `logits` are over the data set's own classes
    dims: Mapping[str, int]

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 [N, 1 or 3, H, W] -> `pool` [N, D] and whatever else `dims` names, float32."""
        ...

    def to(self, device: torch.device | str) -> Self: ...

    def __hash__(self) -> int: ...


def check_images(images: Tensor) -> Tensor:
    """uint8 [N, 3, H, W]; gray images are repeated. Raises ValueError for another type or shape."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"Images of {images.dtype} {tuple(images.shape)}; expected uint8 [N, 1 or 3, H, W].")
    return images.expand(-1, 3, -1, -1)


def read_weights(path: str | Path | None, file: str, origin: str, key: str) -> dict[str, Tensor]:
    """The tensors of a weights file (.safetensors, or torch's format without pickled code), by name.

    Raises ValueError that names the file, its origin and the configuration key where there is none.
    """
    if path is None or not Path(path).is_file():
        found = "no path is set" if path is None else f"{str(path)!r} does not exist"
        raise ValueError(
            f"These features need the weights {file}, and {found}. Fetch {origin} on a machine with a network, and set "
            f"{key} to the file; decm downloads nothing. features=random_small runs without it, for trials alone."
        )
    if Path(path).suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler says, the file is not a plain state dict
        raise ValueError(
            f"{path} is not a file of weights, or it is damaged ({type(error).__name__}). Fetch {origin}."
        ) from error
