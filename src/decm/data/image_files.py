"""Images to encode: a folder of one folder per class, or tar shards of `<key>.<image>` and `<key>.cls`."""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from decm.data.index import members, parse_label

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# What names of files and folders begin with that a system left beside the images.
UNSEEN = (".", "__MACOSX", "lost+found")
SPLITS = {"train", "training", "val", "valid", "validation", "test"}  # names of folders that are no classes
LOOKED_AT = 10_000  # files, before a folder counts as one without images
Place = tuple[int, int]  # device and inode: a folder, by whatever path


@dataclass(frozen=True)
class ImageFile:
    """A file's bytes from `offset` on (`size` of them; -1: all), the label of that image, and its record in a tar."""

    path: Path
    label: int
    offset: int = 0
    size: int = -1
    record: str = ""

    def read(self) -> bytes:
        """The encoded image. Raises ValueError, by name, if it cannot be read."""
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):  # to open a pipe would wait for its other end
                raise OSError("it is no regular file")
            with self.path.open("rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise ValueError(f"The image {self} cannot be read ({error.strerror or error}). Copy it again.") from error
        if len(content) < self.size:
            raise ValueError(f"The image {self} has {len(content)} of its {self.size} bytes. Copy the shard again.")
        return content

    def __str__(self) -> str:
        return f"{self.path}" if self.size < 0 else f"{self.record!r} at byte {self.offset} of {self.path}"


def find_images(source: str | Path, setting: str = "source", labeled: bool = True) -> tuple[list[ImageFile], int, str]:
    """(images in the order of their names, number of classes, what else lies there) below `source`.

    Classes are its folders, in the order of `class_folders`; links are followed, and a folder is read once a class.
    With `labeled=False` the images may also lie in `source` itself, or in tar shards without labels. Raises ValueError,
    with the name of the setting, for a folder without images, one of a class too, for tar shards without labels, and
    with `labeled=False` for images both in `source` itself and in its folders, of which `decm data` leaves the former
    out.
    """
    root = Path(source)
    if not root.is_dir():
        found = "a file" if root.is_file() else "no folder"
        raise ValueError(
            f"{setting}={str(source)!r} is {found}; expected a folder with one folder per class, or with *.tar of "
            "images."
        )
    shards = sorted(path for path in root.glob("*.tar") if _seen(path.name))
    if shards and (folders := _class_folders(root)):
        raise ValueError(
            f"{setting}={str(source)!r} holds folders ({folders[0].name}, ...) and tar files ({shards[0].name}, ...); "
            "expected one kind: move the others elsewhere."
        )
    if shards:
        others = Counter(_suffix(path.name) for path in _files(root, _around(root)) if path not in shards)
        images = [image for shard in shards for image in _in_tar(shard, labeled, others)]
        classes = max((image.label for image in images), default=0) + 1
    else:
        images, classes, others = _in_folders(root, setting, labeled)
    if not images:
        loose = sum(map(_is_image, _entries(root)[1]))
        advice = f" The {loose} in the folder itself have no class: move them into a folder of it." if loose else ""
        kinds = ", ".join(IMAGES)
        raise ValueError(f"{setting}={str(source)!r} has no images ({kinds}) in folders per class or *.tar.{advice}")
    return images, classes, _counted(others)


def class_folders(source: str | Path) -> tuple[str, ...] | None:
    """The names of the classes by label, those of the folders in `source`; None for tar shards, which have none.

    Names that are all whole numbers are in the order of the numbers, any others in that of their characters.
    """
    root = Path(source)
    if any(_seen(path.name) for path in root.glob("*.tar")):
        return None
    return tuple(folder.name for folder in _class_folders(root))


def _class_folders(root: Path) -> list[Path]:
    """The folders of the classes by label, without links back to `root` or around it."""
    around = _around(root) | {_place(root)}
    folders = [folder for folder in _entries(root)[0] if _place(folder) not in around]
    numbers = all(folder.name.isascii() and folder.name.isdecimal() for folder in folders)
    return sorted(folders, key=lambda folder: int(folder.name)) if numbers else folders


def holds_images(folder: str | Path) -> bool:
    """Whether there is an image file among the first files below a folder."""
    root = Path(folder)
    return any(_is_image(path) for path in islice(_files(root, _around(root)), LOOKED_AT))


def _in_folders(root: Path, setting: str, labeled: bool) -> tuple[list[ImageFile], int, Counter[str]]:
    folders, files = _class_folders(root), _entries(root)[1]
    if folders and {folder.name.lower() for folder in folders} <= SPLITS:
        raise ValueError(
            f"{setting}={str(root)!r} holds {' and '.join(folder.name for folder in folders)}, which are parts of a "
            f"data set and no classes; expected the folder of one part, as {setting}={folders[0]}."
        )
    around = _around(root) | {_place(root)}
    stray = [] if labeled else [ImageFile(path, 0) for path in files if _is_image(path)]
    others = Counter(_suffix(path.name) for path in files if labeled or not _is_image(path))
    images, empty = [], []
    for label, folder in enumerate(folders):
        below = list(_files(folder, set(around)))
        found = [ImageFile(path, label) for path in below if _is_image(path)]
        others.update(_suffix(path.name) for path in below if not _is_image(path))
        images += found
        if not found:
            empty.append(folder.name)
    if empty and labeled:
        raise ValueError(
            f"{setting}={str(root)!r}: {len(empty)} of {len(folders)} class folders ({', '.join(empty[:5])}) hold no "
            f"image ({', '.join(IMAGES)}). Files of other kinds: {_counted(others) or 'none'}. Convert them or remove "
            "the folder."
        )
    if stray and images:
        raise ValueError(
            f"{setting}={str(root)!r} holds {len(stray)} images itself ({stray[0].path.name}, ...) and {len(images)} "
            "in its folders, of which `decm data` would read the latter. Move the former elsewhere or into a folder."
        )
    return images or stray, len(folders), others


def _files(folder: Path, known: set[Place]) -> Iterator[Path]:
    """The files below a folder, by folder and name, without those that a system left there.

    Links are followed, but into no folder that is `known`, which those that are read become: so a loop has an end.
    """
    place = _place(folder)
    if place not in known:
        known.add(place)
        folders, files = _entries(folder)
        yield from files
        for deeper in folders:
            yield from _files(deeper, known)


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """(folders, files) in a folder, by name. Raises ValueError if it cannot be read."""
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if _seen(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(
            f"The folder {folder} cannot be read ({error.strerror}). Make it readable for this user."
        ) from error
    folders = [Path(entry.path) for entry in entries if _is_folder(entry)]
    return folders, [Path(entry.path) for entry in entries if not _is_folder(entry)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, for one: a file that cannot be read
        return False


def _place(folder: Path) -> Place:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _around(root: Path) -> set[Place]:
    """The folders in which a folder lies."""
    return set(map(_place, root.resolve().parents))


def _seen(name: str) -> bool:
    return not name.startswith(UNSEEN)


def _is_image(path: Path) -> bool:
    return _suffix(path.name) in IMAGES


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without suffix"


def _counted(suffixes: Counter[str]) -> str:
    """ "2 .gif, 1 .txt": bytes that are no text in a name are written as their codes."""
    counted = ", ".join(f"{count} {suffix}" for suffix, count in sorted(suffixes.items()))
    return counted.encode(errors="backslashreplace").decode()


def _in_tar(shard: Path, labeled: bool, others: Counter[str]) -> list[ImageFile]:
    """The images of a shard, in order; what else it holds is added to `others`.

    Raises ValueError, with shard and record, for what is wrong with one.
    """
    pictures, labels = dict[str, tuple[str, int, int]](), dict[str, int]()
    with shard.open("rb") as file:
        for key, extension, offset, size in members(shard):
            if f".{extension}" in IMAGES:
                if key in pictures and pictures[key][0] != extension:
                    raise ValueError(
                        f"Shard {shard}, record {key!r}: found images as .{pictures[key][0]} and .{extension}; "
                        "expected one a record. Leave one out, or give it an extension that says what it is."
                    )
                pictures[key] = (extension, offset, size)
            elif extension != "cls":
                others[_suffix(f"{key}.{extension}")] += 1
            elif labeled:
                try:
                    labels[key] = parse_label(os.pread(file.fileno(), size, offset))
                except ValueError as error:
                    raise ValueError(f"Shard {shard}, record {key!r} at byte {offset}: {error}") from error
    unlabeled = [key for key in pictures if key not in labels]
    if unlabeled and labeled:
        raise ValueError(f"Shard {shard}: {len(unlabeled)} images ({unlabeled[0]}, ...) have no .cls file beside them.")
    return [
        ImageFile(shard, labels.get(key, 0), offset, size, key.lstrip("/"))
        for key, (_, offset, size) in pictures.items()
    ]


def listing_hash(images: Sequence[ImageFile], root: str | Path) -> str:
    """A hash over names, places and labels: of another listing, another set."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(os.fsencode(image.path.relative_to(root)))
        digest.update(f"\0{image.offset}\0{image.size}\0{image.label}\n".encode())
    return digest.hexdigest()
