"""CIFAR-10: 60,000 color pictures of 32x32, from its python-version archive, whose pickles execute nothing here."""

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from decm.data.arrays import ArrayDataset, known_set
from decm.data.published import ARCHIVE, BATCHES, CIFAR, cifar_place

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)
LARGEST = 2**28  # bytes of a batch; a real one has 31 MB


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 pickles the bytes of a Python 2 array."""
    return text.encode("latin1")


RECONSTRUCT: Callable[..., Any] = np.empty(0).__reduce__()[0]  # type: ignore[assignment]
ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}


class PlainUnpickler(pickle.Unpickler):
    """Reads plain containers and numpy arrays. Raises pickle.UnpicklingError for anything else that a file names."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return ALLOWED[module, name]


def cifar10(path: str | None = None, download: bool = False, flip: bool = False) -> ArrayDataset:
    """CIFAR-10: 50,000 training and 10,000 held-out pictures, 3x32x32, ten classes; with `flip`, half are mirrored.

    `path`: the archive, the folder that it unpacks to, or the folder that holds either, as torchvision's root. With
    `download=True` torchvision fetches what is missing, into `path` or else into `datasets`. Raises ValueError for a
    batch that is missing, damaged, or holds anything but plain containers and arrays: nothing in it is executed.
    """
    place = cifar_place(path)
    if place is None and download:
        from torchvision import datasets

        datasets.CIFAR10(path or "datasets", download=True)
        place = cifar_place(path or "datasets")
    if place is None:
        where = "no place was named" if path is None else f"{path} has neither {ARCHIVE} nor {CIFAR}"
        raise ValueError(f"CIFAR-10 is not at hand, for {where}: set data.path to one of them, or data.download=true.")
    arrays: dict[str, np.ndarray] = {}
    for part, names in BATCHES.items():
        contents = (member(place, name) if place.is_file() else file_of(place / name) for name in names)
        pictures, labels = zip(*map(batch, contents, names), strict=True)
        arrays |= {f"{part}_x": np.concatenate(pictures), f"{part}_y": np.concatenate(labels)}
    return known_set("cifar10", arrays, CLASSES, "CIFAR-10 (Krizhevsky 2009)", flip)


def file_of(path: Path) -> bytes:
    """The bytes of a batch's file. Raises ValueError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(LARGEST)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}). Unpack the archive again.") from error


def member(archive: Path, name: str) -> bytes:
    """The bytes of a batch in the archive, which is not unpacked. Raises ValueError if it has none, or is damaged."""
    try:
        with tarfile.open(archive) as tar:
            for entry in tar:
                if entry.isfile() and PurePosixPath(entry.name).name == name:
                    file = tar.extractfile(entry)
                    assert file is not None  # of a regular file
                    return file.read(LARGEST)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"{archive} cannot be read ({error}). Fetch it again.") from error
    raise ValueError(f"{archive} has no {name}; expected CIFAR-10's python version.")


def batch(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(pictures [N, 3, 32, 32] uint8, labels [N]) of a batch. Raises ValueError for anything else."""
    try:
        found = dict(PlainUnpickler(io.BytesIO(content), encoding="bytes").load())
    except pickle.UnpicklingError as error:
        why = f"it is damaged, or holds more than arrays, of which nothing was executed: {error}"
        raise ValueError(f"{name} is refused: {why}.") from error
    except Exception as error:  # whatever a damaged pickle leads to
        raise ValueError(f"{name} is damaged ({type(error).__name__}: {error}).") from error
    found = {key.decode() if isinstance(key, bytes) else key: value for key, value in found.items()}
    data, labels = found.get("data"), found.get("labels")
    size = int(np.prod(SHAPE))
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != size:
        raise ValueError(f"{name} has no `data` of uint8 [N, {size}].")
    if not isinstance(labels, list) or len(labels) != len(data):
        count = len(labels) if isinstance(labels, list) else "no"
        raise ValueError(f"{name} has {len(data)} pictures and {count} labels.")
    return data.reshape(-1, *SHAPE), np.array(labels)
