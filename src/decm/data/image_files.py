"""Images to encode: a folder of one folder per class, or tar shards of `<key>.<image>` and `<key>.cls`."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from decm.data.index import members

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
UNSEEN = (".", "__MACOSX")  # what names of files and folders begin with that a system left beside the images


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


def find_images(source: str | Path, setting: str = "source") -> tuple[list[ImageFile], int, str]:
    """(images in the order of their names, number of classes, what else lies there) below `source`.

    Classes are its folders, in the order of `class_folders`. Raises ValueError, with the name of the setting, for a
    folder without images, one of a class too, and for tar shards without labels.
    """
    root = Path(source)
    if not root.is_dir():
        raise ValueError(
            f"{setting}={str(source)!r} is no folder; expected one folder per class, or *.tar with images."
        )
    others = ""
    shards = sorted(path for path in root.glob("*.tar") if _seen(path.name))
    if shards:
        images = [image for shard in shards for image in _in_tar(shard)]
        classes = max((image.label for image in images), default=0) + 1
    else:
        images, classes, others = _in_folders(root, setting)
    if not images:
        kinds = ", ".join(IMAGES)
        raise ValueError(f"{setting}={str(source)!r} has no images ({kinds}) in folders per class or *.tar.")
    return images, classes, others


def class_folders(source: str | Path) -> tuple[str, ...] | None:
    """The names of the classes by label, those of the folders in `source`; None for tar shards, which have none.

    Names that are all whole numbers are in the order of the numbers, any others in that of their characters.
    """
    root = Path(source)
    if any(_seen(path.name) for path in root.glob("*.tar")):
        return None
    names = sorted(entry.name for entry in os.scandir(root) if _seen(entry.name) and entry.is_dir())
    numbers = all(name.isascii() and name.isdecimal() for name in names)
    return tuple(sorted(names, key=int) if numbers else names)


def _in_folders(root: Path, setting: str) -> tuple[list[ImageFile], int, str]:
    entries = sorted((entry for entry in os.scandir(root) if _seen(entry.name)), key=lambda entry: entry.name)
    classes = class_folders(root) or ()
    skipped = Counter(_suffix(entry.name) for entry in entries if not entry.is_dir())
    images, empty = [], []
    for label, name in enumerate(classes):
        files = list(_files(root / name))
        found = [ImageFile(path, label) for path in files if _suffix(path.name) in IMAGES]
        skipped.update(_suffix(path.name) for path in files if _suffix(path.name) not in IMAGES)
        images += found
        if not found:
            empty.append(name)
    others = ", ".join(f"{count} {suffix}" for suffix, count in sorted(skipped.items()))
    if empty:
        raise ValueError(
            f"{setting}={str(root)!r}: {len(empty)} of {len(classes)} class folders ({', '.join(empty[:5])}) hold no "
            f"image ({', '.join(IMAGES)}). Files of other kinds: {others or 'none'}. Convert them or remove the folder."
        )
    return images, len(classes), others


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder, by folder and name, without those that a system left there."""
    for place, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if _seen(name))
        yield from (Path(place, name) for name in sorted(names) if _seen(name))


def _seen(name: str) -> bool:
    return not name.startswith(UNSEEN)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without suffix"


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
