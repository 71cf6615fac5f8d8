"""Latents that no autoencoder of ours made: LightningDiT's safetensors shards, and a synthetic set to try things on."""

import fcntl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from decm.data.latents import LatentDataset
from decm.data.making.latent_sets import Plan, finish_set, write_set
from decm.data.manifest import MANIFEST
from decm.data.raw import LATENT_CHANNELS, check_layout, integer_labels
from decm.data.shards import Record
from decm.flow.randomness import normal

STATS = "latents_stats.pt"
KEYS = ("latents", "latents_flip", "labels")
DTYPES = {"F16": "float16", "F32": "float32"}


class LightningDiTLatents:
    """The shards that LightningDiT's extraction writes: `latents`, `latents_flip` [n, C, H, W] and `labels` [n].

    Rows count over the files in the order of their names. Raises ValueError for a folder without them, files that
    cannot be read, tensors of different shapes or of another type than float16 or float32, labels that are not whole
    numbers [n] or [n, 1], and latents that are not finite.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.paths = sorted(self.folder.glob("*.safetensors"))
        if not self.paths:
            raise ValueError(f"{str(folder)!r} has no *.safetensors; expected LightningDiT's extracted latents.")
        self.files = [self._open(path) for path in self.paths]
        kinds, labels = set(), []
        for path, file in zip(self.paths, self.files, strict=True):
            missing = {"latents", "labels"} - set(file.keys())
            if missing:
                raise ValueError(f"{path} has no {' and '.join(sorted(missing))}; expected {', '.join(KEYS)}.")
            self._keys = [key for key in KEYS[:2] if key in file.keys()]  # noqa: SIM118 (not a dict)
            try:
                labels.append(integer_labels(file.get_tensor("labels"), f"{path}: labels"))
            except SafetensorError as error:
                raise ValueError(f"{path}: its labels cannot be read ({error}). Copy it again.") from error
            slices = {key: file.get_slice(key) for key in self._keys}
            kinds |= {(tuple(s.get_shape()[1:]), s.get_dtype(), len(slices)) for s in slices.values()}
            short = [key for key, s in slices.items() if s.get_shape()[0] != len(labels[-1])]
            if short:
                raise ValueError(
                    f"{path}: {short[0]} is {slices[short[0]].get_shape()}, with {len(labels[-1])} labels."
                )
        (shape, dtype, _), *others = kinds
        if others or dtype not in DTYPES or len(shape) != 3:
            raise ValueError(f"{str(folder)!r} holds latents of {sorted(kinds)}; expected one kind, F16 or F32.")
        check_layout((sum(map(len, labels)), *shape), f"{self.folder}: latents", LATENT_CHANNELS)
        self.shape, self.dtype, self.flip = shape, DTYPES[dtype], len(self._keys) == 2
        self.labels = np.concatenate(labels)
        if not len(self.labels):
            raise ValueError(f"{str(folder)!r} holds no latents: its files have no rows.")
        self._first = np.cumsum([0, *map(len, labels)])

    @staticmethod
    def _open(path: Path) -> Any:
        try:
            return safe_open(path, "pt")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is no intact safetensors file ({error}). Copy it again.") from error

    def statistics(self) -> tuple[list[float], list[float]] | None:
        """Mean and std per channel of `latents_stats.pt`; None if it is not there. Raises ValueError if it is wrong."""
        path = self.folder / STATS
        if not path.is_file():
            return None
        try:
            stats = torch.load(path, map_location="cpu", weights_only=True)
            mean, std = (stats[key].double().flatten().tolist() for key in ("mean", "std"))
        except Exception as error:  # whatever the unpickler says, the file is not statistics
            raise ValueError(f"{path} does not hold mean and std ({type(error).__name__}). Make it again.") from error
        if len(mean) != self.shape[0] or len(std) != self.shape[0] or not min(std) > 0:
            raise ValueError(
                f"{path} has {len(mean)} means and {len(std)} stds; expected {self.shape[0]}, stds above 0."
            )
        return mean, std

    def records(self, rows: Sequence[np.ndarray]) -> Iterator[Record]:
        """One record for each array of row numbers."""
        for numbers in rows:
            files = np.searchsorted(self._first, numbers, side="right") - 1
            places = list(zip(files.tolist(), (numbers - self._first[files]).tolist(), strict=True))
            copies = [
                torch.cat([self.files[file].get_slice(key)[row : row + 1] for file, row in places]).numpy()
                for key in self._keys
            ]
            for key, copy in zip(self._keys, copies, strict=True):
                broken = ~np.isfinite(copy).all((1, 2, 3))
                if broken.any():
                    file, row = places[int(broken.argmax())]
                    raise ValueError(
                        f"{self.paths[file]}: {key}: row {row} is not finite. Extract that file again, or leave it out."
                    )
            yield copies[0], copies[1] if self.flip else None, self.labels[numbers]


@dataclass(frozen=True)
class SyntheticLatents:
    """A made set: sample i is the mean of class i mod `num_classes` plus noise, scaled and shifted per channel."""

    shape: tuple[int, int, int]
    num_classes: int
    dtype: str
    flip: bool
    seed: int

    def records(self, rows: Sequence[np.ndarray]) -> Iterator[Record]:
        """One record for each array of row numbers."""
        C, classes = self.shape[0], torch.arange(max(1, self.num_classes))
        means = normal(self.seed, "synthetic/class", classes, (C, 1, 1))
        channels = torch.linspace(0, 1, C)[:, None, None]
        for numbers in rows:
            labels = torch.from_numpy(numbers % len(classes))
            states = means[labels] + 0.5 * normal(self.seed, "synthetic", torch.from_numpy(numbers), self.shape)
            latents = ((0.5 + 2 * channels) * states + channels - 0.5).numpy().astype(self.dtype)
            yield latents, latents[..., ::-1].copy() if self.flip else None, labels.numpy()


def synthetic_plan(
    name: str, num: int, shape: Sequence[int], num_classes: int, dtype: str, flip: bool, seed: int = 0
) -> Plan:
    """The plan of a synthetic set, marked as such, of classes class_0, class_1, ...

    Raises ValueError unless `shape` is (C, H, W).
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape={list(shape)}: expected [channels, height, width].")
    C, H, W = map(int, shape)
    names = tuple(f"class_{k}" for k in range(num_classes)) or None
    return Plan(
        name=name,
        samples=num,
        shape=(C, H, W),
        dtype=dtype,
        num_classes=num_classes,
        flip=flip,
        origin="synthetic",
        extra={"synthetic": True},
        seed=seed,
        class_names=names,
    )


def synthetic_latents(
    path: str, num: int, shape: Sequence[int], num_classes: int, flip: bool = True, on_corrupt: str = "raise"
) -> LatentDataset:
    """A synthetic set in the folder `path`, made there by the first process that needs it."""
    folder, plan = Path(path), synthetic_plan(Path(path).name, num, shape, num_classes, "float16", True)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / MANIFEST).is_file():
            source = SyntheticLatents(plan.shape, num_classes, plan.dtype, plan.flip, plan.seed)
            write_set(folder, plan, source, 0, 1, lambda samples: None)
            finish_set(folder, plan)
    dataset = LatentDataset(path, flip, on_corrupt)
    found, wanted = dataset.manifest, (plan.samples, plan.shape, plan.num_classes, "synthetic")
    if (found.split["train"], tuple(found.shape), found.num_classes, found.origin) != wanted:
        raise ValueError(f"{path} holds another set, {found.name!r} ({found.origin}). Choose another data.path.")
    return dataset
