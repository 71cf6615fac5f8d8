"""Where the files of the known sets lie, by the constructor that reads them."""

from pathlib import Path

IDX = {
    "train_x": "train-images-idx3-ubyte",
    "train_y": "train-labels-idx1-ubyte",
    "heldout_x": "t10k-images-idx3-ubyte",
    "heldout_y": "t10k-labels-idx1-ubyte",
}
NAMES = {"fashion_mnist": "FashionMNIST", "mnist": "MNIST"}  # as torchvision calls them
SYSTEM = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}  # where Debian's packages put their files
CIFAR, ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
BATCHES = {"train": [f"data_batch_{k}" for k in range(1, 6)], "heldout": ["test_batch"]}


def idx_files(which: str, path: str | None) -> dict[str, Path]:
    """The four files of `fashion_mnist` or `mnist`, plain or compressed; {} where a folder does not have them all.

    They lie in `path`, in what torchvision makes below it, or without a path in the system's folder.
    """
    root = Path(path) if path is not None else None
    places = [root, root / "raw", root / NAMES[which] / "raw"] if root is not None else [SYSTEM.get(which)]
    for place in places:
        found = {key: file for key, stem in IDX.items() if place and (file := plain_or_compressed(place / stem))}
        if len(found) == len(IDX):
            return found
    return {}


def plain_or_compressed(file: Path) -> Path | None:
    """The file as it is, or with .gz; None where neither is there."""
    return next((one for one in (file, file.with_name(f"{file.name}.gz")) if one.is_file()), None)


def cifar_place(path: str | None) -> Path | None:
    """CIFAR-10's folder of batches, else its archive: `path` itself, or in it as torchvision puts them."""
    if path is None:
        return None
    places = [Path(path), Path(path, CIFAR), Path(path, ARCHIVE)]
    folders = [place for place in places if (place / BATCHES["heldout"][0]).is_file()]
    return next(iter([*folders, *(place for place in places if place.is_file())]), None)


def published_files(which: str, path: str | None) -> list[Path]:
    """The files that the constructor `which` reads; [] where they are not all there."""
    if which in NAMES:
        return list(idx_files(which, path).values())
    place = cifar_place(path)
    if place is None or place.is_file():
        return [place] if place else []
    batches = [place / name for names in BATCHES.values() for name in names]
    return batches if all(file.is_file() for file in batches) else []
