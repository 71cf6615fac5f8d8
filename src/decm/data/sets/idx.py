"""MNIST and Fashion-MNIST: 70,000 pictures of 28x28, in four files of the format idx."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from decm.data.arrays import ArrayDataset, known_set
from decm.data.published import IDX, NAMES, idx_files

UINT8 = 8  # the type of the elements, in the third byte
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
ORIGINS = {
    "fashion_mnist": "Fashion-MNIST (arXiv:1708.07747, MIT)",
    "mnist": "MNIST (LeCun, Cortes and Burges)",
}
PACKAGES = {"fashion_mnist": "dataset-fashion-mnist"}  # of Debian


def fashion_mnist(path: str | None = None, download: bool = False) -> ArrayDataset:
    """Fashion-MNIST: 60,000 training and 10,000 held-out pictures of clothes, 1x28x28, ten classes; see `idx_set`."""
    return idx_set("fashion_mnist", path, download, CLOTHES)


def mnist(path: str | None = None, download: bool = False) -> ArrayDataset:
    """MNIST: 60,000 training and 10,000 held-out handwritten digits, 1x28x28; see `idx_set`."""
    return idx_set("mnist", path, download, tuple(map(str, range(10))))


def idx_set(which: str, path: str | None, download: bool, class_names: tuple[str, ...]) -> ArrayDataset:
    """The set `which` from the folder `path`, its own or torchvision's root; without one, from the Debian package.

    With `download=True` torchvision fetches what is missing, into `path` or else into `datasets`. Raises ValueError for
    files that are missing, damaged, or of different lengths.
    """
    files = idx_files(which, path)
    if not files and download:
        from torchvision import datasets

        getattr(datasets, NAMES[which])(path or "datasets", download=True)
        files = idx_files(which, path or "datasets")
    if not files:
        ways = [f"install the Debian package {PACKAGES[which]}"] if which in PACKAGES else []
        ways += [f"set data.path to a folder with {IDX['train_x']} (or .gz) and the other three files"]
        where = "no place was named" if path is None else f"{path} has not all of its four files"
        raise ValueError(f"{NAMES[which]} is not at hand, for {where}: {', '.join(ways)}, or set data.download=true.")
    arrays = {key: read_idx(file, 3 if key.endswith("x") else 1) for key, file in files.items()}
    for split in ("train", "heldout"):
        pictures, labels = arrays[f"{split}_x"], arrays[f"{split}_y"]
        if len(pictures) != len(labels):
            folder = files["train_x"].parent
            raise ValueError(f"{folder}: {len(pictures)} pictures and {len(labels)} labels of the {split} part.")
        arrays[f"{split}_x"] = pictures[:, None]
    return known_set(NAMES[which].lower(), arrays, class_names, ORIGINS[which])


def read_idx(path: Path, dims: int) -> np.ndarray:
    """The uint8 array of an idx file with `dims` dimensions. Raises ValueError for another kind and a damaged file."""
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}). Fetch it again.") from error
    if content[:4] != bytes([0, 0, UINT8, dims]):
        raise ValueError(
            f"{path} is no idx file of uint8 in {dims} dimensions: it begins with {content[:4].hex(' ') or 'nothing'}."
        )
    head = 4 + 4 * dims
    shape = np.frombuffer(content[4:head].ljust(4 * dims, b"\0"), ">u4").tolist()
    if len(content) - head != math.prod(shape):
        said, found = " x ".join(map(str, shape)), max(0, len(content) - head)
        raise ValueError(f"{path} has {found} bytes of data, expected {said}: it is cut off. Fetch it again.")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape).copy()
