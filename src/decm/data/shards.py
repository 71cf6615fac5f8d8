"""Tar shards of latents: written whole or not at all, read record by record at stored offsets (data/index.py)."""

import io
import os
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from decm.checkpoints.checksums import file_digest
from decm.checkpoints.durable import PART, beside, publish, sync
from decm.data.index import (
    FLIPPED,
    LABELS,
    LATENTS,
    DamagedShardError,
    ShardIndex,
    UnopenedShardError,
    index_path,
    read_index,
    scan,
)

OPEN_FILES = 64
Record = tuple[np.ndarray, np.ndarray | None, np.ndarray]  # latents [n, C, H, W], their flipped copy, labels [n]


def write_shard(shard: Path, records: Iterable[Record], first: int = 0) -> ShardIndex:
    """Write records, numbered from `first`, and the index; `shard` appears last, when it is whole."""
    from webdataset.writer import TarWriter

    part = beside(shard, PART)
    try:
        with part.open("wb") as file, TarWriter(file, encoder=False, mtime=0) as writer:
            for number, (latents, flipped, labels) in enumerate(records, first):
                members = {LATENTS[0]: latents, FLIPPED[0]: flipped, LABELS[0]: labels}
                arrays = {name: _npy(array) for name, array in members.items() if array is not None}
                writer.write({"__key__": f"{number:08d}", **arrays})
    except ValueError:  # a record was refused
        part.unlink()
        raise
    index = scan(part)
    index.save(shard)
    sync(part)
    publish(part, shard)
    return index


def is_finished(shard: Path) -> bool:
    """Whether a shard and its index are there, and the shard is byte for byte what was written."""
    if not (shard.is_file() and index_path(shard).is_file()):
        return False
    index = read_index(shard)
    return shard.stat().st_size == index.size and file_digest(shard) == index.sha256


def first_infinite(shard: Path) -> int:
    """The first record with a latent that is not finite; -1: there is none."""
    records = ShardRecords([shard])
    copies = [False, True] if records.flip else [False]
    found = (r for r in range(len(records)) if not all(np.isfinite(records.read(r, flip)).all() for flip in copies))
    return next(found, -1)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


class ShardRecords:
    """The records of several shards as one numbered sequence with random access; every read is checksummed.

    `counts` [R] are the samples of each record, `labels` [N] those of all, record after record, `first` [R] where in
    them a record begins. Raises ValueError for a missing shard, an unreadable index or shards of different kinds.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.indices = [read_index(path) for path in self.paths]
        kinds = {(index.shape, index.dtype, index.flip) for index in self.indices}
        if len(kinds) != 1:
            raise ValueError(
                f"The shards beside {self.paths[:1]} hold latents of {len(kinds)} kinds; expected one: {kinds}."
            )
        self.shape, self.dtype, self.flip = kinds.pop()
        self.rows = np.concatenate([index.records for index in self.indices])
        self.shard = np.repeat(np.arange(len(self.paths)), [len(index.records) for index in self.indices])
        self.counts = self.rows["count"]
        self.first = np.cumsum(self.counts) - self.counts
        self.labels = np.concatenate([index.labels for index in self.indices])
        self._files: OrderedDict[int, int] = OrderedDict()  # shard -> descriptor, the latest used last

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, record: int, flipped: bool = False) -> np.ndarray:
        """Latents [n, C, H, W] of a record, or their flipped copies.

        Raises DamagedShardError where bytes are missing or changed, or where the shard is gone.
        """
        row, shard = self.rows[record], int(self.shard[record])
        offset, crc = (row["flip"], row["crc_flip"]) if flipped else (row["latents"], row["crc"])
        shape = (int(row["count"]), *self.shape)
        size = int(np.prod(shape)) * np.dtype(self.dtype).itemsize
        try:
            descriptor = self._descriptor(shard)
        except OSError as error:
            raise UnopenedShardError(self.paths[shard], int(offset), record, error) from error
        try:
            content = os.pread(descriptor, size, int(offset))
        except OSError as error:
            raise DamagedShardError(self.paths[shard], int(offset), f"it cannot be read ({error})") from error
        if len(content) < size:
            raise DamagedShardError(
                self.paths[shard],
                int(offset) + len(content),
                f"it ends there, within record {record}, which begins at byte {offset} and has {size} bytes",
            )
        if zlib.crc32(content) != crc:
            raise DamagedShardError(
                self.paths[shard],
                int(offset),
                f"the {size} bytes of record {record} from there on are not those that were written (CRC-32 differs)",
            )
        return np.frombuffer(content, self.dtype).reshape(shape)

    def check(self, hashes: Sequence[str], sizes: bool = True) -> None:
        """Raise ValueError for an index of another shard than listed, DamagedShardError for another size (`sizes`)."""
        for path, index, sha256 in zip(self.paths, self.indices, hashes, strict=True):
            size = path.stat().st_size
            if sizes and size != index.size:
                raise DamagedShardError(path, min(size, index.size), f"it has {size} bytes, expected {index.size}")
            if index.sha256 != sha256:
                raise ValueError(
                    f"Shard {path} is not the one that the manifest lists (SHA-256 differs), or its index "
                    f"{index_path(path).name} was made from it when it was damaged. Copy both, or the shard alone: "
                    "an index that is not there is made."
                )

    def _descriptor(self, shard: int) -> int:
        if shard not in self._files:
            self._files[shard] = os.open(self.paths[shard], os.O_RDONLY)
            if len(self._files) > OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
        self._files.move_to_end(shard)
        return self._files[shard]

    def close(self) -> None:
        """Close what is open; reading opens it again."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_files"):
            self.close()
