"""Latents in shards as a data set: a global order over (seed, epoch), normalized, mirrored by sample number."""

import logging
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from decm.data.index import DamagedShardError
from decm.data.manifest import Manifest, read_manifest
from decm.data.shards import ShardRecords
from decm.flow.randomness import permutation, uniform

ADVICE = (
    "Make a set with `decm latents encode source=<images> weights=<autoencoder> out=...` or `decm latents import "
    "source=<LightningDiT's latents> out=...` (`decm latents synth out=...` makes a small one to try)."
)
OF_PICTURES = "decm latents encode source={} weights=<autoencoder> out={}"
FACTS = {"name", "samples", "bytes", "sha256"}  # of each shard
CACHED = 16  # records
log = logging.getLogger(__name__)


def latents_manifest(path: str | Path) -> Manifest:
    """The manifest of a set of latents. Raises ValueError, saying what to run, if there is none."""
    manifest = read_manifest(path, ADVICE, OF_PICTURES)
    if manifest.extra.get("kind") != "latents":
        raise ValueError(f"{str(path)!r} holds the set {manifest.name!r}, which is not one of latents. {ADVICE}")
    listed = manifest.extra.get("shards")
    if not listed or any(FACTS - set(shard) for shard in listed) or "train" not in manifest.split:
        raise ValueError(
            f"The manifest of {str(path)!r} does not list its shards with {', '.join(sorted(FACTS))}. {ADVICE}"
        )
    return manifest


def shard_paths(path: str | Path, manifest: Manifest) -> list[Path]:
    """The shards that a manifest lists. Raises ValueError if some are missing."""
    paths = [Path(path) / shard["name"] for shard in manifest.extra["shards"]]
    missing = [file.name for file in paths if not file.is_file()]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(paths)} shards of {str(path)!r} are missing: {', '.join(missing[:10])}. "
            "Copy them there, or run again the `decm latents` that made the set: it makes only what is missing."
        )
    return paths


def check_labels(path: str | Path, manifest: Manifest, labels: np.ndarray) -> None:
    """Raise ValueError for a label outside of the manifest's classes."""
    classes = max(1, manifest.num_classes)
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f"{str(path)!r} has labels {labels.min()} to {labels.max()}, its manifest says {manifest.num_classes} "
            f"classes; expected 0 to {classes - 1}. Run `decm latents check path={path}`, and make the set again."
        )


class LatentDataset:
    """Latents [N, C, H, W] of a prepared folder, normalized per channel by its manifest, with their labels [N].

    The run's order is epoch after epoch: records permuted by (seed, epoch), samples permuted within each record (they
    were permuted over the whole set when written). With `flip`, sample i is the mirrored copy where a uniform number of
    (seed, i) is below 1/2. `on_corrupt=skip` puts the next intact record in a damaged one's place, `skipped` counts
    those. Raises ValueError for a missing manifest or shard, `flip` without mirrored copies and, with
    `on_corrupt=raise`, for damaged shards.
    """

    def __init__(self, path: str | Path, flip: bool = False, on_corrupt: str = "raise") -> None:
        if on_corrupt not in ("raise", "skip"):
            raise ValueError(f"data.on_corrupt={on_corrupt!r} is unknown; expected raise or skip.")
        self.manifest = latents_manifest(path)
        self.records = ShardRecords(shard_paths(path, self.manifest))
        found = (self.records.shape, len(self.records.labels))
        expected = (tuple(self.manifest.shape), self.manifest.split["train"])
        if found != expected:
            raise ValueError(
                f"The shards of {str(path)!r} hold (shape, samples) = {found}, its manifest says {expected}. Run `decm "
                f"latents check path={path}`, and make the set again."
            )
        check_labels(path, self.manifest, self.records.labels)
        infinite = [
            path.name for path, index in zip(self.records.paths, self.records.indices, strict=True) if not index.finite
        ]
        if infinite:
            raise ValueError(f"{str(path)!r} has latents that are not finite, in {', '.join(infinite[:10])}. {ADVICE}")
        if flip and not self.records.flip:
            raise ValueError(f"data.flip=true, but {str(path)!r} holds no mirrored copies. Set data.flip=false.")
        self.flip, self.skip = flip, on_corrupt == "skip"
        self.records.check([shard["sha256"] for shard in self.manifest.extra["shards"]], sizes=not self.skip)
        self._mean = torch.tensor(self.manifest.mean)[:, None, None]
        self._std = torch.tensor(self.manifest.std)[:, None, None]
        self._bad: set[tuple[int, bool]] = set()  # (record, flipped)
        self._cache: OrderedDict[tuple[int, bool], np.ndarray] = OrderedDict()
        self._orders: OrderedDict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.records.labels)

    @property
    def skipped(self) -> int:
        """Damaged records that were met and left out."""
        return len({record for record, _ in self._bad})

    def batch(self, seed: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """Samples number `index` [B] of the run's one global order: (x [B, C, H, W] float32, y [B])."""
        x, y = np.empty((len(index), *self.records.shape), np.float32), np.empty(len(index), np.int64)
        record, within = self._locate(seed, index.numpy())
        flipped = (uniform(seed, "flip", index) < 0.5).numpy() if self.flip else np.zeros(len(index), bool)
        group = 2 * record + flipped
        order = np.argsort(group, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
            if len(rows):
                used, latents = self._intact(int(record[rows[0]]), bool(flipped[rows[0]]))
                places = within[rows] % len(latents)  # a substitute may be shorter
                states = torch.from_numpy(latents[places]).float()  # a record at a time: it stays in the cache
                x[rows] = states.sub_(self._mean).div_(self._std).numpy()
                y[rows] = self.records.labels[self.records.first[used] + places]
        return torch.from_numpy(x), torch.from_numpy(y)

    def _locate(self, seed: int, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The record of each sample number, and the sample's place within it."""
        record, within = np.empty_like(index), np.empty_like(index)
        epochs, positions = np.divmod(index, len(self))
        for epoch in np.unique(epochs).tolist():
            here = np.flatnonzero(epochs == epoch)
            order, starts = self._order(seed, epoch)
            turn = np.searchsorted(starts, positions[here], side="right") - 1
            record[here], within[here] = order[turn], positions[here] - starts[turn]
            for k in np.unique(turn[self.records.counts[order[turn]] > 1]).tolist():
                rows, which = here[turn == k], int(order[k])
                shuffled = permutation(seed, f"order/{epoch}", which, int(self.records.counts[which])).numpy()
                within[rows] = shuffled[within[rows]]
        return record, within

    def _order(self, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The records in an epoch's order, and the position at which each begins."""
        if (seed, epoch) not in self._orders:
            order = permutation(seed, "records", epoch, len(self.records)).numpy()
            counts = self.records.counts[order]
            self._orders[seed, epoch] = order, np.cumsum(counts) - counts
            if len(self._orders) > 2:
                self._orders.popitem(last=False)
        return self._orders[seed, epoch]

    def _intact(self, record: int, flipped: bool) -> tuple[int, np.ndarray]:
        """The first intact record from `record` on, and its latents. Raises ValueError if there is none."""
        for candidate in range(record, record + len(self.records)):
            used = candidate % len(self.records)
            if (used, flipped) in self._bad:
                continue
            try:
                return used, self._load(used, flipped)
            except DamagedShardError as error:
                if not self.skip:
                    raise
                shard = self.records.shard[used]
                if all(self.records.shard[bad] != shard for bad, _ in self._bad):
                    log.warning("%s Leaving its damaged records out (data.on_corrupt=skip).", error)
                self._bad.add((used, flipped))
        raise ValueError("Every record of the set is damaged. Make it again with `decm latents`.")

    def _load(self, record: int, flipped: bool) -> np.ndarray:
        key = (record, flipped)
        if key not in self._cache:
            self._cache[key] = self.records.read(record, flipped)
            if len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]
