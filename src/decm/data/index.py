"""What a tar shard of latents holds and where: an index of record offsets beside each shard, made by reading it once.

A record holds `<key>.latents.npy` [n, C, H, W], `<key>.labels.npy` [n] and, where the mirrored images were encoded too,
`<key>.latents_flip.npy`. Shards of others with one sample a record (`.latent.npy` [C, H, W], `.label.npy` or `.cls`)
are indexed alike.
"""

import contextlib
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from decm.checkpoints.checksums import file_digest
from decm.checkpoints.durable import save_npz, write_whole
from decm.data.raw import LARGEST_LABEL, integer_labels

LATENTS = ("latents.npy", "latent.npy")
FLIPPED = ("latents_flip.npy", "latent_flip.npy")
LABELS = ("labels.npy", "label.npy", "cls")
DTYPES = ("float16", "float32")
BLOCK = 512  # of a tar
CONTINUE = "continue a run with resume=auto (make train RESUME=1)"
# Byte offsets of the arrays' first values (-1: no flipped copy), samples, and the CRC-32 of either array.
RECORD = np.dtype([("latents", "<i8"), ("flip", "<i8"), ("count", "<i8"), ("crc", "<u4"), ("crc_flip", "<u4")])

Record = tuple[np.ndarray, np.ndarray | None, np.ndarray]  # latents [n, C, H, W], their flipped copy, labels [n]


class DamagedShardError(ValueError):
    """A shard that ends early or does not hold what was written; the message has its name and a byte offset."""

    def __init__(self, path: Path, offset: int, what: str) -> None:
        super().__init__(
            f"Shard {path} is damaged at byte {offset}: {what}. Copy or make the shard again, and {CONTINUE}; where "
            "its index is there, data.on_corrupt=skip leaves its damaged records out."
        )


class UnopenedShardError(DamagedShardError):
    """A shard that was there at the start and cannot be opened any more."""

    def __init__(self, path: Path, offset: int, record: int, reason: OSError) -> None:
        what = "vanished during the run" if isinstance(reason, FileNotFoundError) else "cannot be opened"
        ValueError.__init__(
            self,
            f"Shard {path} {what}: record {record} at byte {offset} is needed ({reason.strerror}). Bring it back, and "
            f"{CONTINUE}; data.on_corrupt=skip goes on without it.",
        )


@dataclass(frozen=True)
class ShardIndex:
    """Where the records of a shard lie, and what it holds: labels, sums over its latents, its size and hash."""

    records: np.ndarray  # [R] of RECORD
    labels: np.ndarray  # [N] int64, record after record
    shape: tuple[int, int, int]
    dtype: str
    total: np.ndarray  # [C] float64, sum of the latents over samples and positions
    squares: np.ndarray  # [C] float64, of their squares
    finite: bool
    size: int  # bytes of the tar
    sha256: str

    @property
    def flip(self) -> bool:
        """Whether every record has a flipped copy."""
        return bool((self.records["flip"] >= 0).all())

    def save(self, shard: Path) -> None:
        """Write beside `shard`, whole or not at all."""
        path = index_path(shard)
        arrays = {name: np.asarray(value) for name, value in vars(self).items()}
        write_whole(path, lambda part: save_npz(part, **arrays))


def index_path(shard: Path) -> Path:
    """`shard-000000.tar` -> `shard-000000.index.npz`."""
    return shard.with_name(shard.name.removesuffix(".tar") + ".index.npz")


def read_index(shard: Path) -> ShardIndex:
    """The index beside `shard`; where there is none the shard is read once and, if possible, its index written.

    Raises ValueError for an index that cannot be read, a missing shard or (without index) a damaged one.
    """
    path = index_path(shard)
    if not shard.is_file():
        raise ValueError(
            f"Shard {shard} is missing. Copy it there, or make it again with the `decm latents` of its set."
        )
    if not path.is_file():
        index = scan(shard)
        with contextlib.suppress(OSError):  # a folder that cannot be written: it is made again the next time
            index.save(shard)
        return index
    try:
        with np.load(path, allow_pickle=False) as stored:
            metadata = {name: stored[name] for name in stored.files}
        C, H, W = (int(side) for side in metadata["shape"])
        return ShardIndex(
            records=metadata["records"].astype(RECORD),
            labels=metadata["labels"],
            shape=(C, H, W),
            dtype=str(metadata["dtype"]),
            total=metadata["total"],
            squares=metadata["squares"],
            finite=bool(metadata["finite"]),
            size=int(metadata["size"]),
            sha256=str(metadata["sha256"]),
        )
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}). Make it readable for this user.") from error
    except Exception as error:  # zip and npy readers raise many kinds; the file is not an index
        raise ValueError(
            f"{path} is not a readable index ({error}). Delete it: it is made again from its shard."
        ) from error


def parse_npy(payload: bytes) -> tuple[np.ndarray, int]:
    """The array of a .npy file, and the offset of its first value. Raises ValueError for anything else."""
    buffer = io.BytesIO(payload)
    try:
        version = np.lib.format.read_magic(buffer)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(buffer)
    except Exception as error:  # the header is read as Python's tokens: many kinds
        raise ValueError(f"its header cannot be read: {error}") from error
    if fortran or dtype.hasobject or not dtype.isnative:
        raise ValueError(f"an array of {dtype}{' in Fortran order' if fortran else ''}")
    count = int(np.prod(shape))
    return np.frombuffer(payload, dtype, count, buffer.tell()).reshape(shape), buffer.tell()


def parse_label(payload: bytes) -> int:
    """The label that a .cls file holds. Raises ValueError for anything but a whole number below 10^9."""
    text = payload.strip()
    if not (text.isdigit() and len(text) < 10):
        raise ValueError(f"the label is {text[:20]!r}; expected a whole number from 0 to {LARGEST_LABEL}.")
    return int(text)


def members(shard: Path) -> Iterator[tuple[str, str, int, int]]:
    """(key, extension, byte offset, size) of every file in a tar, in order. Raises DamagedShardError."""
    end = 0
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if member.offset_data + member.size > shard.stat().st_size:
                    raise DamagedShardError(shard, member.offset_data, f"{member.name} is cut off")
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                if member.isfile():
                    folder, _, name = member.name.rpartition("/")
                    key, _, extension = name.partition(".")
                    yield f"{folder}/{key}", extension.lower(), member.offset_data, member.size
    except tarfile.TarError as error:
        raise DamagedShardError(shard, end, f"no tar file ({error})") from error
    with shard.open("rb") as file:
        file.seek(end)
        if file.read(BLOCK) != bytes(BLOCK):
            raise DamagedShardError(shard, end, "the tar ends without its end mark, or a header is broken")


def _grouped(shard: Path) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    key, group = "", dict[str, tuple[int, int]]()
    for name, extension, offset, size in members(shard):
        if group and name != key:
            yield key, group
            group = {}
        key, group = name, {**group, extension: (offset, size)}
    if group:
        yield key, group


def scan(shard: Path) -> ShardIndex:
    """The index of a shard, from reading it once; records keep the order in which they lie.

    Raises DamagedShardError for a tar that ends early, and ValueError for one without latents and labels.
    """
    rows, labels, kinds = [], [], set[tuple[tuple[int, ...], str]]()
    total, squares, finite = np.zeros(1), np.zeros(1), True
    with shard.open("rb") as file:
        for key, group in _grouped(shard):
            x, y, flipped, offsets = _record(shard, file.fileno(), key, group)
            crc_flip = 0 if flipped is None else zlib.crc32(np.ascontiguousarray(flipped).data)
            rows.append((*offsets, len(x), zlib.crc32(x.data), crc_flip))
            labels.append(y)
            kinds |= {(array.shape[1:], str(array.dtype)) for array in (x, flipped) if array is not None}
            if len(kinds) != 1 or x.dtype not in DTYPES:
                raise ValueError(
                    f"Shard {shard} holds latents of {sorted(kinds)} up to its record {key!r}; expected one shape, of "
                    f"{DTYPES}."
                )
            wide = x.astype(np.float64)
            total, squares = total + wide.sum((0, 2, 3)), squares + (wide**2).sum((0, 2, 3))
            finite &= bool(np.isfinite(wide).all() and (flipped is None or np.isfinite(flipped).all()))
    if not kinds:
        raise ValueError(f"Shard {shard} is empty. Remove it from the set, or make the set again.")
    shape, dtype = kinds.pop()
    C, H, W = shape
    return ShardIndex(
        records=np.array(rows, RECORD),
        labels=np.concatenate(labels),
        shape=(C, H, W),
        dtype=dtype,
        total=total,
        squares=squares,
        finite=finite,
        size=shard.stat().st_size,
        sha256=file_digest(shard),
    )


def _record(
    shard: Path, descriptor: int, key: str, group: dict[str, tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, tuple[int, int]]:
    """(latents [n, C, H, W], labels [n], flipped copy, byte offsets of the first and the last) of a record."""

    def read(names: tuple[str, ...]) -> tuple[np.ndarray, int] | None:
        name = next((name for name in names if name in group), None)
        if name is None:
            return None
        offset, size = group[name]
        payload = os.pread(descriptor, size, offset)
        try:
            array, start = (np.array(parse_label(payload)), 0) if name == "cls" else parse_npy(payload)
            array = integer_labels(np.atleast_1d(array), "labels") if names is LABELS else array
        except ValueError as error:
            raise DamagedShardError(shard, offset, f"{name} of {key!r} cannot be read ({error})") from error
        return array, offset + start

    found, flipped, label = read(LATENTS), read(FLIPPED), read(LABELS)
    if found is None or label is None:
        raise ValueError(
            f"Shard {shard} has a record {key!r} of {', '.join(sorted(group))}; expected {LATENTS[0]} and {LABELS[0]} "
            f"(64 samples), or {LATENTS[1]} and {LABELS[1]} or {LABELS[2]} (one sample)."
        )
    x = found[0] if LATENTS[0] in group else found[0][None]
    y = label[0]
    if x.ndim != 4 or len(x) != len(y) or (flipped is not None and flipped[0].size != x.size):
        raise ValueError(f"Shard {shard}, record {key!r}: latents {x.shape} do not go with {len(y)} labels.")
    mirrored = flipped[0].reshape(x.shape) if flipped is not None else None
    return x, y, mirrored, (found[1], flipped[1] if flipped is not None else -1)
