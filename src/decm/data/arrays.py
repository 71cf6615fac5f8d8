"""Data sets that fit in memory: two splits of states and labels, from a package or from a folder of one's own."""

import logging
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from decm.checkpoints.durable import write_whole
from decm.data.manifest import MANIFEST, Manifest, check_classes, checked, content_hash, named, read_manifest
from decm.data.raw import as_array, channel_statistics, integer_labels, raw_pictures
from decm.data.split import gaps
from decm.flow.randomness import permutation, uniform

ARRAYS = "arrays.safetensors"
KEYS = ("train_x", "train_y", "heldout_x", "heldout_y")
log = logging.getLogger(__name__)


class ArrayDataset:
    """States [N, C, H, W] float32 (normalized) and labels [N] int64, in a training and a held-out split.

    Pictures that are stored as uint8 stay so in memory, and are normalized when they are asked for. The run's order of
    samples is epoch after epoch, each a permutation by (seed, epoch). With `flip`, sample i of the run is mirrored
    where a uniform number of (seed, i) is below a half.
    """

    def __init__(self, arrays: dict[str, Tensor], manifest: Manifest, flip: bool = False) -> None:
        self.stored, self.manifest, self.flip = arrays, manifest, flip
        self.train_y, self.heldout_y = arrays["train_y"], arrays["heldout_y"]
        self._epoch: tuple[int, int] | None = None  # (seed, epoch) of the permutation at hand
        self._order = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.train_y)

    @property
    def train_x(self) -> Tensor:
        """All training states."""
        return self.states(self.stored["train_x"])

    @property
    def heldout_x(self) -> Tensor:
        """All held-out states."""
        return self.states(self.stored["heldout_x"])

    def states(self, stored: Tensor) -> Tensor:
        """The states of stored rows: (pixel / 255 - mean) / std of uint8 pictures, else what is stored."""
        if stored.dtype != torch.uint8:
            return stored
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.manifest.mean, self.manifest.std))
        return (stored.float() / 255 - mean) / std

    def batch(self, seed: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """Samples number `index` [B] of the run's one global order: (x [B, C, H, W], y [B])."""
        n = len(self)
        rows = torch.empty_like(index)
        for epoch in (index // n).unique().tolist():
            if self._epoch != (seed, epoch):
                self._order, self._epoch = permutation(seed, "order", epoch, n), (seed, epoch)
            here = index // n == epoch
            rows[here] = self._order[index[here] % n]
        x = self.states(self.stored["train_x"][rows])
        if self.flip:
            mirrored = uniform(seed, "flip", index) < 0.5
            x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        return x, self.train_y[rows]


def digits(heldout: int = 300, split_seed: int = 0) -> ArrayDataset:
    """scikit-learn's handwritten digits: 1,797 real 8x8 images of 10 classes, `heldout` of them held out.

    Pixels 0..16 become raw = pixel / 16 and x = (raw - 0.5) / 0.5 in [-1, 1]. Raises ValueError unless both splits
    keep at least 100 images.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    if not 100 <= heldout <= len(images) - 100:
        raise ValueError(f"data.heldout={heldout}; expected 100 to {len(images) - 100} of the {len(images)} images.")
    x = torch.from_numpy(images.astype(np.float32) / 8 - 1).reshape(-1, 1, 8, 8)
    y = torch.from_numpy(labels.astype(np.int64))
    order = permutation(split_seed, "split", 0, len(x))
    held, train = order[:heldout], order[heldout:]
    manifest = Manifest(
        name="digits",
        shape=(1, 8, 8),
        num_classes=10,
        mean=(0.5,),
        std=(0.5,),
        split={"train": len(train), "heldout": heldout, "seed": split_seed},
        content_hash=content_hash(x, y),
        origin="sklearn.datasets.load_digits (UCI optical digits, test part)",
        class_names=tuple(map(str, range(10))),
    )
    return ArrayDataset(dict(zip(KEYS, (x[train], y[train], x[held], y[held]), strict=True)), manifest)


def known_set(
    name: str, arrays: Mapping[str, np.ndarray], class_names: tuple[str, ...], origin: str, flip: bool = False
) -> ArrayDataset:
    """A published set: uint8 pictures [N, C, H, W] and labels [N] of two parts (KEYS), normalized by the training one.

    Raises ValueError for labels outside its classes.
    """
    labels = {key: integer_labels(arrays[key], f"{name}: {key}", len(class_names)) for key in ("train_y", "heldout_y")}
    stored = {key: torch.from_numpy({**arrays, **labels}[key]) for key in KEYS}
    mean, std = channel_statistics(stored["train_x"].float() / 255)
    manifest = Manifest(
        name=name,
        shape=tuple(stored["train_x"].shape[1:]),  # type: ignore[arg-type]
        num_classes=len(class_names),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        split={"train": len(stored["train_y"]), "heldout": len(stored["heldout_y"])},
        content_hash=content_hash(*(stored[key] for key in KEYS)),
        origin=origin,
        class_names=class_names,
    )
    return ArrayDataset(stored, manifest, flip)


def folder(path: str) -> ArrayDataset:
    """A folder made by `write_arrays`. Raises ValueError if a file is missing or does not match its manifest."""
    manifest = read_manifest(path)
    file = Path(path) / ARRAYS
    if not file.is_file():
        raise ValueError(f"{path} has a manifest but no {ARRAYS}. Make it again with `decm data`, or write_arrays.")
    try:
        file.open("rb").close()  # safetensors calls a file that may not be read one that is not there
        arrays = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} cannot be read ({error}). Copy it again or prepare it again.") from error
    if set(arrays) != set(KEYS) or content_hash(*(arrays[key] for key in KEYS)) != manifest.content_hash:
        raise ValueError(f"{file} is not what its manifest describes (content hash differs). Prepare it again.")
    for split in ("train", "heldout"):
        x, y = arrays[f"{split}_x"], f"{split}_y"
        if tuple(x.shape[1:]) != tuple(manifest.shape) or not bool(x.isfinite().all()):
            raise ValueError(
                f"{file}: {split}_x has the shape {list(x.shape)} or values that are not finite; expected finite "
                f"states of the manifest's shape {list(manifest.shape)}. Prepare it again."
            )
        arrays[y] = torch.from_numpy(integer_labels(arrays[y], f"{file}: {y}", manifest.num_classes))
    return ArrayDataset(arrays, manifest)


def write_arrays(
    path: str | Path,
    arrays: Mapping[str, Tensor | np.ndarray],
    name: str,
    num_classes: int,
    origin: str,
    class_names: Sequence[str] | None = None,
) -> Manifest:
    """Write raw images and labels (train_x, train_y, heldout_x, heldout_y) as a data set that `folder` reads.

    Images are tensors or numpy arrays [N, C, H, W]: floats in [0, 1], or uint8 pixels 0 to 255. Labels are whole
    numbers of any type, [N] or [N, 1], in 0 .. num_classes - 1 (num_classes=0: unconditional, all are 0), and
    `class_names` what label 0, 1, ... is called. States are normalized by the training split's mean and standard
    deviation per channel; uint8 pixels are stored as they are. Classes without a picture in one of the parts are logged
    as a warning. Raises ValueError for anything else before a file is written; a set that is there is replaced when the
    new one is complete.
    """
    check_place(Path(path))
    if set(arrays) != set(KEYS):
        raise ValueError(f"Found splits {sorted(map(str, arrays))}; expected exactly {', '.join(KEYS)}.")
    for what, value, kind in (("name", name, str), ("origin", origin, str), ("num_classes", num_classes, Integral)):
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{what}={value!r}; expected {'a text' if kind is str else 'a whole number'}.")
    check_classes(int(num_classes))
    labels = {key: integer_labels(arrays[key], key, int(num_classes)) for key in ("train_y", "heldout_y")}
    prepared, mean, std = _states(arrays)
    for x, y in (("train_x", "train_y"), ("heldout_x", "heldout_y")):
        if len(prepared[x]) != len(labels[y]):
            raise ValueError(f"{y} has {len(labels[y])} labels; expected {len(prepared[x])} labels, one a picture.")
    train = prepared["train_x"]
    prepared |= {key: torch.from_numpy(y) for key, y in labels.items()}
    manifest = checked(
        Manifest(
            name=name,
            shape=(train.shape[1], train.shape[2], train.shape[3]),
            num_classes=int(num_classes),
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
            split={"train": len(train), "heldout": len(prepared["heldout_x"])},
            content_hash=content_hash(*(prepared[key] for key in KEYS)),
            origin=origin,
            class_names=named(class_names),
        )
    )
    _replace(Path(path), prepared, manifest)
    for sentence in gaps(labels["train_y"], labels["heldout_y"], manifest.labels()):
        log.warning("%s", sentence)
    return manifest


def _states(arrays: Mapping[str, Tensor | np.ndarray]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """(what to store of the pictures of both parts, mean, std): uint8 pixels as they are, floats normalized."""
    pictures = raw_pictures(arrays, ("train_x", "heldout_x"))
    mean, std = channel_statistics(pictures["train_x"])
    if all(as_array(arrays[key], key).dtype == np.uint8 for key in pictures):  # a quarter of the size
        return {key: torch.from_numpy(np.array(as_array(arrays[key], key))) for key in pictures}, mean, std
    normalized = {key: ((x - mean[:, None, None]) / std[:, None, None]).contiguous() for key, x in pictures.items()}
    return normalized, mean, std


def check_place(folder: Path) -> None:
    """Raise ValueError where `write_arrays` cannot make a folder, or would replace a set of another kind."""
    if next((place for place in (folder, *folder.absolute().parents) if place.exists()), folder).is_file():
        raise ValueError(f"{folder} cannot be made: it is a file, or lies below one. Choose another folder.")
    if (folder / MANIFEST).exists() and not (folder / ARRAYS).exists():
        raise ValueError(f"{folder} holds a set of another kind ({MANIFEST} without {ARRAYS}). Choose another folder.")


def _replace(folder: Path, arrays: dict[str, Tensor], manifest: Manifest) -> None:
    """Write arrays and manifest, in place of the set that is there only when the new arrays are complete."""
    folder.mkdir(parents=True, exist_ok=True)

    def write(part: Path) -> None:
        save_file(arrays, part)
        (folder / MANIFEST).unlink(missing_ok=True)  # until both are there again

    write_whole(folder / ARRAYS, write)
    manifest.write(folder)
