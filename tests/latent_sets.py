"""Small sets of latents and pictures for the tests."""

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from decm.data.making.latent_sets import Plan, finish_set, write_set
from decm.data.manifest import read_manifest
from decm.data.shards import Record, ShardRecords
from decm.flow.randomness import permutation

SHAPE, CLASSES = (2, 4, 4), 3
SRC = Path(__file__).parents[1] / "src"


class Numbered:
    """Sample i is recognizable: its values begin at 32 i, its mirrored copy is its negative, its label i mod 3."""

    def __init__(self, dtype: str = "float32", flip: bool = True) -> None:
        self.dtype, self.flip = dtype, flip

    def latents(self, rows: np.ndarray) -> np.ndarray:
        return (32 * rows[:, None] + np.arange(1, 33)).reshape(-1, *SHAPE).astype(self.dtype)

    def records(self, rows: Sequence[np.ndarray]) -> Iterator[Record]:
        for numbers in rows:
            x = self.latents(numbers)
            yield x, -x if self.flip else None, numbers % CLASSES


def numbered_plan(num: int = 50, flip: bool = True, record_size: int = 8, shard_records: int = 3) -> Plan:
    return Plan(
        name="numbered",
        samples=num,
        shape=SHAPE,
        dtype="float32",
        num_classes=CLASSES,
        flip=flip,
        origin="tests",
        extra={},
        record_size=record_size,
        shard_records=shard_records,
    )


def numbered_set(folder: Path, num: int = 50, flip: bool = True, record_size: int = 8) -> Path:
    """Shards of 3 records of 8 samples (50 samples: 7 records, the last of 2, in 3 shards), with a manifest."""
    plan = numbered_plan(num, flip, record_size)
    write_set(folder, plan, Numbered(flip=flip), 0, 1, lambda samples: None)
    finish_set(folder, plan)
    return folder


def number_of(raw: np.ndarray) -> np.ndarray:
    """Which sample each row [B, C, H, W] of (unnormalized) latents is; mirrored ones count alike."""
    return (np.abs(raw.reshape(len(raw), -1)[:, 0]).round().astype(int) - 1) // 32


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def flip_byte(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 255
    path.write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def stored(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(latents, flipped copies, labels) in the order of the source."""
    manifest = read_manifest(folder)
    records = ShardRecords([folder / shard["name"] for shard in manifest.extra["shards"]])
    back = np.argsort(permutation(manifest.extra["order_seed"], "shards", 0, manifest.split["train"]).numpy())
    copies = [np.concatenate([records.read(r, flip) for r in range(len(records))])[back] for flip in (False, True)]
    return copies[0], copies[1], records.labels[back]
