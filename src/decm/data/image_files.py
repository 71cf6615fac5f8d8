"""Images to encode: a folder of one folder per class, or tar shards of `<key>.<image>` and `<key>.cls`."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from decm.data.index import members

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


@dataclass(frozen=True)
class ImageFile:
    """A file's bytes from `offset` on (`size` of them; -1: all), and the label of the image that they are."""

    path: Path
    label: int
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        """The encoded image. Raises ValueError if it cannot be read."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        except OSError as error:
            raise ValueError(f"The image {self} cannot be read ({error}). Copy it again.") from error

    def __str__(self) -> str:
        return f"{self.path}" if self.size < 0 else f"at byte {self.offset} of {self.path}"


def find_images(source: str | Path) -> tuple[list[ImageFile], int]:
    """(images in the order of their names, number of classes) below `source`; classes are its folders, by name.

    Raises ValueError for a folder without images and for tar shards without labels.
    """
    root = Path(source)
    if not root.is_dir():
        raise ValueError(f"source={str(source)!r} is no folder; expected one folder per class, or *.tar with images.")
    shards = sorted(root.glob("*.tar"))
    if shards:
        images = [image for shard in shards for image in _in_tar(shard)]
        classes = max((image.label for image in images), default=0) + 1
    else:
        folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
        images, classes = _in_folders(root, folders), len(folders)
    if not images:
        raise ValueError(f"source={str(source)!r} has no images ({', '.join(IMAGES)}) in folders per class or *.tar.")
    return images, classes


def _in_folders(root: Path, classes: Sequence[str]) -> list[ImageFile]:
    images = []
    for label, name in enumerate(classes):
        for folder, subfolders, files in os.walk(root / name):
            subfolders.sort()
            found = sorted(file for file in files if file.lower().endswith(IMAGES))
            images += [ImageFile(Path(folder, file), label) for file in found]
    return images


def _in_tar(shard: Path) -> list[ImageFile]:
    pictures, labels = dict[str, tuple[int, int]](), dict[str, int]()
    with shard.open("rb") as file:
        for key, extension, offset, size in members(shard):
            if f".{extension}" in IMAGES:
                pictures[key] = (offset, size)
            elif extension == "cls":
                labels[key] = int(os.pread(file.fileno(), size, offset))
    unlabeled = [key for key in pictures if key not in labels]
    if unlabeled:
        raise ValueError(f"Shard {shard}: {len(unlabeled)} images ({unlabeled[0]}, ...) have no .cls file beside them.")
    return [ImageFile(shard, labels[key], *place) for key, place in pictures.items()]


def listing_hash(images: Sequence[ImageFile], root: str | Path) -> str:
    """A hash over names, places and labels: of another listing, another set."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.path.relative_to(root)}\0{image.offset}\0{image.size}\0{image.label}\n".encode())
    return digest.hexdigest()
