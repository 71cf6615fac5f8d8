"""Latents streamed from their tar shards with webdataset, where no index can be read or made: one order per rank."""

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decm.data.index import CONTINUE, FLIPPED, LABELS, LATENTS, DamagedShardError, parse_label, parse_npy
from decm.data.latents import latents_manifest, shard_paths
from decm.data.loader import IndexLoader
from decm.data.raw import integer_labels
from decm.flow.randomness import permutation, uniform

BUFFER = 1024  # samples of a shard among which the next one is drawn

Sample = tuple[np.ndarray, np.ndarray | None, int]  # latent [C, H, W], its flipped copy, label


class StreamedLatents:
    """Latents of a prepared folder, normalized as `LatentDataset` does it, read from the shards' beginnings on.

    No index is needed, only the manifest; so bytes are not checksummed, and what is damaged in their middle is found
    only where the tar or an array's shape breaks. Raises ValueError for a missing manifest or shard, for a shard of
    another size than the manifest says, and for `flip` without mirrored copies.
    """

    def __init__(self, path: str | Path, flip: bool = False) -> None:
        self.manifest = latents_manifest(path)
        self.paths = [shard.resolve() for shard in shard_paths(path, self.manifest)]
        if flip and not self.manifest.extra["flip"]:
            raise ValueError(f"data.flip=true, but {str(path)!r} holds no mirrored copies. Set data.flip=false.")
        for shard, listed in zip(self.paths, self.manifest.extra["shards"], strict=True):
            if (size := shard.stat().st_size) != listed["bytes"]:
                raise DamagedShardError(
                    shard, min(size, listed["bytes"]), f"it has {size} bytes, expected {listed['bytes']}"
                )
        self.counts = [int(listed["samples"]) for listed in self.manifest.extra["shards"]]
        if len(self) != self.manifest.split["train"]:
            raise ValueError(
                f"The manifest of {str(path)!r} lists shards of {len(self)} samples and says that it has "
                f"{self.manifest.split['train']}. Run `decm latents check path={path}`, and make the set again."
            )
        self.flip = flip
        self._mean = torch.tensor(self.manifest.mean)[:, None, None]
        self._std = torch.tensor(self.manifest.std)[:, None, None]

    def __len__(self) -> int:
        return sum(self.counts)

    def share(self, seed: int, epoch: int, rank: int, world_size: int) -> tuple[list[int], int]:
        """A rank's shards of an epoch, in order, and how many samples every rank takes: those of the smallest share."""
        order = permutation(seed, "stream/shards", epoch, len(self.paths)).tolist()
        shares = [order[k::world_size] for k in range(world_size)]
        return shares[rank], min(sum(self.counts[shard] for shard in share) for share in shares)

    def stream(self, seed: int, rank: int, world_size: int, position: int) -> Iterator[Sample]:
        """A rank's samples, epoch after epoch without end, from number `position` of its own on."""
        epoch, skipped = 0, 0
        while True:
            shards, left = self.share(seed, epoch, rank, world_size)
            for shard in shards:
                count = min(self.counts[shard], left)
                left -= count
                ahead = min(count, position - skipped)
                skipped += ahead
                if ahead < count:  # a shard that lies behind is not opened
                    yield from islice(self.read(shard, f"{seed}/{epoch}/{shard}"), ahead, count)
            epoch += 1

    def read(self, shard: int, order: str | None = None) -> Iterator[Sample]:
        """All samples of a shard, shuffled in a buffer by `order`, or as they lie.

        Raises ValueError for a shard that cannot be read or has another number of samples than the manifest says.
        """
        import webdataset

        stages = [webdataset.SimpleShardList([str(self.paths[shard])]), webdataset.tarfile_to_samples(), self._samples]
        if order is not None:
            stages.append(webdataset.shuffle(BUFFER, initial=BUFFER, rng=random.Random(order)))
        count = 0
        try:
            for count, sample in enumerate(webdataset.DataPipeline(*stages), 1):  # noqa: B007, reported below
                yield sample
        except Exception as error:  # readers of archives raise many kinds, by what the damaged bytes look like
            raise self._unreadable(shard, count, str(error)) from error
        if count != self.counts[shard]:
            raise self._unreadable(shard, count, f"the manifest says that it has {self.counts[shard]}")

    def _unreadable(self, shard: int, count: int, why: str) -> ValueError:
        return ValueError(
            f"Shard {self.paths[shard]} cannot be read beyond its sample {count}: {why}. Copy or make the shard again, "
            f"and {CONTINUE}."
        )

    def _samples(self, records: Iterator[dict[str, Any]]) -> Iterator[Sample]:
        """One by one, what the records of a tar hold."""
        for record in records:
            latents, flipped, labels = (
                next((name for name in names if name in record), "") for names in (LATENTS, FLIPPED, LABELS)
            )
            if not (latents and labels) or (self.flip and not flipped):
                raise ValueError(f"record {record['__key__']!r} lacks latents or labels, it has {sorted(record)}")
            shape = (-1, *self.manifest.shape)
            label = np.array(parse_label(record[labels])) if labels == "cls" else parse_npy(record[labels])[0]
            y = integer_labels(np.atleast_1d(label), f"record {record['__key__']!r}: labels").tolist()
            x = parse_npy(record[latents])[0].reshape(shape)
            mirrored = parse_npy(record[flipped])[0].reshape(shape) if self.flip else None
            if len(x) != len(y) or (mirrored is not None and len(mirrored) != len(x)):
                raise ValueError(f"record {record['__key__']!r} has {len(x)} latents and {len(y)} labels")
            if not (np.isfinite(x).all() and 0 <= min(y) <= max(y) < max(1, self.manifest.num_classes)):
                raise ValueError(
                    f"record {record['__key__']!r} has latents that are not finite, or labels that are not below "
                    f"num_classes={self.manifest.num_classes} (labels {min(y)} to {max(y)})"
                )
            for k, label in enumerate(y):
                yield x[k], None if mirrored is None else mirrored[k], label

    def batch(self, seed: int, index: Tensor, samples: Iterator[Sample]) -> tuple[Tensor, Tensor]:
        """The next samples as number `index` [B] of the run, which decides what is mirrored: (x [B, C, H, W], y)."""
        mirror = (uniform(seed, "flip", index) < 0.5).tolist() if self.flip else [False] * len(index)
        taken = list(islice(samples, len(index)))
        states = np.stack([y if flip and y is not None else x for flip, (x, y, _) in zip(mirror, taken, strict=True)])
        x = torch.from_numpy(states).float().sub_(self._mean).div_(self._std)
        return x, torch.tensor([label for _, _, label in taken])


class StreamLoader(IndexLoader):
    """As `IndexLoader`, for a stream: the position is kept, but which sample comes next depends on the ranks.

    Shards are dealt anew to the ranks in each epoch, explicitly by `rank` and `world_size`; every rank takes as many
    samples as the smallest share has. Raises ValueError for fewer shards than ranks.
    """

    def __init__(self, dataset: StreamedLatents, seed: int, **part: Any) -> None:
        super().__init__(dataset, seed, **part)  # type: ignore[arg-type]
        shards = len(dataset.paths)
        if shards < self.world_size:
            raise ValueError(
                f"The set {dataset.manifest.name!r} has {shards} shards, too few to stream to {self.world_size} ranks. "
                "Use fewer devices, make the set with smaller shards (shard_records), or read it by index "
                "(data=latents)."
            )
        self.streamed = dataset
        self._samples: Iterator[Sample] | None = None
        self._next = -1  # the number of the stream's next sample, among those of this rank
        if self.rank == 0:
            print(
                f"{dataset.manifest.name} is streamed: the order of its samples depends on the number of ranks (now "
                f"{self.world_size}), and up to the rest that does not divide among them, each is seen once an epoch.",
                flush=True,
            )

    def fetch(self, index: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """The next samples of this rank's stream; after a resumption it skips forward to the saved position."""
        here = position * self.micro
        if self._samples is None or self._next != here:
            self._samples = self.streamed.stream(self.seed, self.rank, self.world_size, here)
        self._next = here + len(index)
        return self.streamed.batch(self.seed, index, self._samples)
