"""MNIST and Fashion-MNIST: 70,000 pictures of 28x28, in four files of the format idx."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch

from decm.data.arrays import ArrayDataset
from decm.data.manifest import Manifest, content_hash
from decm.data.raw import channel_statistics, integer_labels

FILES = {
    "train_x": "train-images-idx3-ubyte",
    "train_y": "train-labels-idx1-ubyte",
    "heldout_x": "t10k-images-idx3-ubyte",
    "heldout_y": "t10k-labels-idx1-ubyte",
}
UINT8 = 8  # the type of the elements, in the third byte
SYSTEM = Path("/usr/share/datasets")  # where Debian's packages of data sets put their files
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
ORIGINS = {
    "FashionMNIST": "Fashion-MNIST (arXiv:1708.07747, MIT)",
    "MNIST": "MNIST (LeCun, Cortes and Burges)",
}


def fashion_mnist(path: str | None = None, download: bool = False) -> ArrayDataset:
    """Fashion-MNIST: 60,000 training and 10,000 held-out pictures of clothes, 1x28x28, ten classes; see `idx_set`."""
    return idx_set("FashionMNIST", path, download, SYSTEM / "fashion-mnist", "dataset-fashion-mnist", CLOTHES)


def mnist(path: str | None = None, download: bool = False) -> ArrayDataset:
    """MNIST: 60,000 training and 10,000 held-out handwritten digits, 1x28x28; see `idx_set`."""
    return idx_set("MNIST", path, download, None, None, tuple(map(str, range(10))))


def idx_set(
    name: str, path: str | None, download: bool, system: Path | None, package: str | None, class_names: tuple[str, ...]
) -> ArrayDataset:
    """The set `name` from the folder `path`, its own or torchvision's root; without one, from the Debian package.

    With `download=True` torchvision fetches what is missing, into `path` or else into `datasets`. Raises ValueError for
    files that are missing, damaged, or of different lengths.
    """
    folder = folder_of(name, path, system)
    if folder is None and download:
        from torchvision import datasets

        getattr(datasets, name)(path or "datasets", download=True)
        folder = folder_of(name, path or "datasets", None)
    if folder is None:
        ways = [f"install the Debian package {package}"] if package else []
        ways += [f"set data.path to a folder with {FILES['train_x']} (or .gz) and the other three files"]
        where = "no place was named" if path is None else f"{path} has not all of its four files"
        raise ValueError(f"{name} is not at hand, for {where}: {', '.join(ways)}, or set data.download=true.")
    arrays = {key: read_idx(file_of(folder, stem), 3 if key.endswith("x") else 1) for key, stem in FILES.items()}
    for split in ("train", "heldout"):
        pictures, labels = arrays[f"{split}_x"], arrays[f"{split}_y"]
        if len(pictures) != len(labels):
            raise ValueError(f"{folder}: {len(pictures)} pictures and {len(labels)} labels of the {split} part.")
    stored = {key: torch.from_numpy(arrays[key])[:, None] for key in ("train_x", "heldout_x")}
    for key in ("train_y", "heldout_y"):
        stored[key] = torch.from_numpy(integer_labels(arrays[key], f"{folder}: {key}", len(class_names)))
    mean, std = channel_statistics(stored["train_x"].float() / 255)
    manifest = Manifest(
        name=name.lower(),
        shape=tuple(stored["train_x"].shape[1:]),  # type: ignore[arg-type]
        num_classes=len(class_names),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        split={"train": len(stored["train_y"]), "heldout": len(stored["heldout_y"])},
        content_hash=content_hash(*(stored[key] for key in FILES)),
        origin=ORIGINS[name],
        class_names=class_names,
    )
    return ArrayDataset(stored, manifest)


def folder_of(name: str, path: str | None, system: Path | None) -> Path | None:
    """The folder that has all four files: `path`, what torchvision makes below it, or the system's; None: no such."""
    root = Path(path) if path is not None else None
    places = [root, root / "raw", root / name / "raw"] if root is not None else [system]
    whole = [place for place in places if place is not None and all(file_of(place, stem) for stem in FILES.values())]
    return whole[0] if whole else None


def file_of(folder: Path, stem: str) -> Path | None:
    """The file of that name in a folder, as it is or compressed."""
    return next((file for file in (folder / stem, folder / f"{stem}.gz") if file.is_file()), None)


def read_idx(path: Path | None, dims: int) -> np.ndarray:
    """The uint8 array of an idx file with `dims` dimensions. Raises ValueError for another kind and a damaged file."""
    assert path is not None
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
