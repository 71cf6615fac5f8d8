"""`decm latents encode`: images -> cropped -> autoencoder -> latents and those of the mirrored image."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from decm.data.image_files import ImageFile
from decm.data.making.images import load_image
from decm.data.shards import Record
from decm.flow.randomness import normal
from decm.networks.autoencoder import Autoencoder

LATENTS = ("mean", "sample")


@dataclass(frozen=True)
class EncodedImages:
    """Images as a source of latents: the posterior's mean, or with `latent=sample` a draw that depends on (seed, row).

    `workers` threads decode ahead. Raises ValueError for an image size that the autoencoder cannot halve often enough.
    """

    images: Sequence[ImageFile]
    autoencoder: Autoencoder
    side: int
    exif_orientation: bool
    latent: str
    dtype: str
    flip: bool
    seed: int
    batch_size: int
    workers: int

    def __post_init__(self) -> None:
        if self.latent not in LATENTS:
            raise ValueError(f"latent={self.latent!r} is unknown; expected one of {', '.join(LATENTS)}.")
        if self.side < 1 or self.side % self.autoencoder.factor:
            raise ValueError(f"image_size={self.side}: expected a multiple of {self.autoencoder.factor} for this kind.")
        if self.workers < 1:
            raise ValueError(f"workers={self.workers}: expected at least one thread.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a latent."""
        side = self.side // self.autoencoder.factor
        return self.autoencoder.latent_channels, side, side

    def load(self, file: ImageFile) -> Tensor:
        """The pixels of an image, uint8 [3, side, side]."""
        return load_image(file, self.side, exif_orientation=self.exif_orientation)

    def records(self, rows: Sequence[np.ndarray]) -> Iterator[Record]:
        """One record for each array of row numbers; the next one's images are decoded meanwhile."""
        waiting: deque[tuple[np.ndarray, list[Future[Tensor]]]] = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            for numbers in rows:
                waiting.append((numbers, [pool.submit(self.load, self.images[i]) for i in numbers]))
                if len(waiting) > 1:
                    yield self._record(*waiting.popleft())
            while waiting:
                yield self._record(*waiting.popleft())

    def _record(self, numbers: np.ndarray, pixels: list[Future[Tensor]]) -> Record:
        images = torch.stack([future.result() for future in pixels]).float() / 127.5 - 1
        labels = np.array([self.images[i].label for i in numbers], np.int64)
        latents = self._encode(images, numbers, "posterior")
        flipped = self._encode(images.flip(-1), numbers, "posterior/flip") if self.flip else None
        for copy in (latents, flipped):
            finite = np.isfinite(copy).all((1, 2, 3)) if copy is not None else np.ones(1, bool)
            if not finite.all():
                raise ValueError(
                    f"The latent of the image {self.images[numbers[~finite][0]]} is not finite in {self.dtype}. Choose "
                    "dtype=float32, or look at the image."
                )
        return latents, flipped, labels

    def _encode(self, images: Tensor, numbers: np.ndarray, purpose: str) -> np.ndarray:
        z, logvar = (part.cpu() for part in self.autoencoder.encode(images, self.batch_size))
        if self.latent == "sample":
            noise = normal(self.seed, purpose, torch.from_numpy(numbers), z.shape[1:])
            z = z + (0.5 * logvar.clamp(-30, 20)).exp() * noise  # LDM's bounds
        return z.numpy().astype(self.dtype)
