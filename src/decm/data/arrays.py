"""Data sets that fit in memory: two splits of states and labels, from a package or from a folder of one's own."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from decm.data.manifest import Manifest, content_hash, read_manifest
from decm.flow.randomness import permutation

ARRAYS = "arrays.safetensors"
KEYS = ("train_x", "train_y", "heldout_x", "heldout_y")


class ArrayDataset:
    """States [N, C, H, W] float32 (normalized) and labels [N] int64, in a training and a held-out split.

    The run's order of samples is epoch after epoch, each a permutation by (seed, epoch).
    """

    def __init__(self, arrays: dict[str, Tensor], manifest: Manifest) -> None:
        self.train_x, self.train_y, self.heldout_x, self.heldout_y = (arrays[key] for key in KEYS)
        self.manifest = manifest
        self._epoch: tuple[int, int] | None = None  # (seed, epoch) of the permutation at hand
        self._order = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.train_x)

    def batch(self, seed: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """Samples number `index` [B] of the run's one global order: (x [B, C, H, W], y [B])."""
        n = len(self)
        rows = torch.empty_like(index)
        for epoch in (index // n).unique().tolist():
            if self._epoch != (seed, epoch):
                self._order, self._epoch = permutation(seed, "order", epoch, n), (seed, epoch)
            here = index // n == epoch
            rows[here] = self._order[index[here] % n]
        return self.train_x[rows], self.train_y[rows]


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
        name="digits", shape=(1, 8, 8), num_classes=10, mean=(0.5,), std=(0.5,),
        split={"train": len(train), "heldout": heldout, "seed": split_seed},
        content_hash=content_hash(x, y), origin="sklearn.datasets.load_digits (UCI optical digits, test part)",
    )  # fmt: skip
    return ArrayDataset(dict(zip(KEYS, (x[train], y[train], x[held], y[held]), strict=True)), manifest)


def folder(path: str) -> ArrayDataset:
    """A folder made by `write_arrays`. Raises ValueError if a file is missing or does not match its manifest."""
    manifest = read_manifest(path)
    file = Path(path) / ARRAYS
    if not file.is_file():
        raise ValueError(f"{path} has a manifest but no {ARRAYS}. Make it again with `decm data`, or write_arrays.")
    arrays = load_file(file)
    if content_hash(*(arrays[key] for key in KEYS)) != manifest.content_hash:
        raise ValueError(f"{file} is not what its manifest describes (content hash differs). Prepare it again.")
    return ArrayDataset(arrays, manifest)


def write_arrays(path: str | Path, arrays: dict[str, Tensor], name: str, num_classes: int, origin: str) -> Manifest:
    """Write raw images in [0, 1] (train_x, heldout_x [N, C, H, W]) and labels as a data set that `folder` reads.

    States are normalized by the training split's mean and standard deviation per channel.
    Raises ValueError for missing splits, pixels outside [0, 1] or labels outside 0 .. num_classes - 1.
    """
    if set(arrays) != set(KEYS):
        raise ValueError(f"Found splits {sorted(arrays)}; expected exactly {', '.join(KEYS)}.")
    for split in ("train", "heldout"):
        x, y = arrays[f"{split}_x"], arrays[f"{split}_y"]
        if x.min() < 0 or x.max() > 1:
            raise ValueError(f"{split}_x lies in [{x.min():.3g}, {x.max():.3g}]; expected raw images in [0, 1].")
        if len(x) != len(y) or y.min() < 0 or y.max() >= max(1, num_classes):
            raise ValueError(f"{split}_y: expected {len(x)} labels in 0 .. {num_classes - 1}.")
    mean = arrays["train_x"].mean((0, 2, 3))
    std = arrays["train_x"].std((0, 2, 3)).clamp(min=1e-6)
    normalized = {
        key: ((value - mean[:, None, None]) / std[:, None, None]).float().contiguous() if key.endswith("x") else value
        for key, value in arrays.items()
    }
    manifest = Manifest(
        name=name, shape=tuple(arrays["train_x"].shape[1:]), num_classes=num_classes,  # type: ignore[arg-type]
        mean=tuple(mean.tolist()), std=tuple(std.tolist()),
        split={"train": len(arrays["train_x"]), "heldout": len(arrays["heldout_x"])},
        content_hash=content_hash(*(normalized[key] for key in KEYS)), origin=origin,
    )  # fmt: skip
    Path(path).mkdir(parents=True, exist_ok=True)
    save_file(normalized, Path(path) / ARRAYS)
    manifest.write(Path(path))
    return manifest
