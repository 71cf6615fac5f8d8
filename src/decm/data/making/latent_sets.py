"""Making a set of latents: shards permuted over the whole set, shared among ranks, restartable; and their manifest."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from decm.checkpoints.durable import write_text
from decm.data.index import ShardIndex, read_index
from decm.data.manifest import MANIFEST, Manifest, checked
from decm.data.shards import Record, is_finished, write_shard
from decm.flow.randomness import permutation

PLAN = "plan.json"
Progress = Callable[[int], None]  # called with the number of samples done


@dataclass(frozen=True)
class Plan:
    """Everything that the bytes of a set depend on, so that a restart and other ranks make the same shards."""

    name: str
    samples: int
    shape: tuple[int, int, int]
    dtype: str
    num_classes: int
    flip: bool
    origin: str
    extra: dict[str, Any] = field(default_factory=dict)
    record_size: int = 64
    shard_records: int = 128
    seed: int = 0  # of the permutation over the whole set
    class_names: tuple[str, ...] | None = None  # of the manifest

    def __post_init__(self) -> None:
        if self.num_classes < 0 or len(self.class_names or ()) > self.num_classes:
            raise ValueError(
                f"num_classes={self.num_classes} and {len(self.class_names or ())} class names; expected 0 classes "
                "(unconditional) or more, and at most one name a class."
            )
        if min(self.samples, self.record_size, self.shard_records) < 1:
            raise ValueError(
                f"A set of {self.samples} samples, {self.record_size} a record, {self.shard_records} records a shard: "
                "expected at least one of each."
            )

    def order(self) -> np.ndarray:
        """Row of the source [N] that each stored sample is."""
        return permutation(self.seed, "shards", 0, self.samples).numpy()

    def shards(self) -> list[tuple[str, list[np.ndarray]]]:
        """(file name, rows of the source of each record) of every shard."""
        order, step = self.order(), self.record_size * self.shard_records
        return [
            (f"shard-{k:06d}.tar", np.split(part, range(self.record_size, len(part), self.record_size)))
            for k, part in enumerate(np.split(order, range(step, self.samples, step)))
        ]


class Source(Protocol):
    """Where samples come from."""

    def records(self, rows: Sequence[np.ndarray]) -> Iterator[Record]:
        """One record for each array of row numbers."""
        ...


def write_set(folder: Path, plan: Plan, source: Source, rank: int, world_size: int, progress: Progress) -> list[str]:
    """Write this rank's shards that are not finished yet; returns the names of those that were. See `finish_set`.

    Raises ValueError if the folder holds another set, and for a latent that is not finite. Then shards that are
    complete stay, for a start with a mended source; where there is none, nothing does.
    """
    there = folder.exists()
    _claim(folder, plan)
    try:
        return _write_shards(folder, plan, source, rank, world_size, progress)
    except ValueError:
        if world_size == 1 and not any(folder.glob("*.tar")):
            (folder / PLAN).unlink()
            if not there:
                folder.rmdir()
        raise


def _write_shards(
    folder: Path, plan: Plan, source: Source, rank: int, world_size: int, progress: Progress
) -> list[str]:
    kept = []
    for k, (name, rows) in enumerate(plan.shards()):
        if k % world_size != rank:
            continue
        if is_finished(folder / name):
            kept.append(name)
            progress(sum(map(len, rows)))
        else:
            write_shard(folder / name, _checked(plan, source.records(rows), progress), k * plan.shard_records)
    return kept


def _claim(folder: Path, plan: Plan) -> None:
    """Leave the plan in the folder, or raise ValueError if another one is there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{folder} cannot be made: it is a file, or lies below one. Choose another `out`.") from error
    text, path = json.dumps(asdict(plan), indent=2) + "\n", folder / PLAN
    begun = any(folder.glob("*.tar"))  # looked at before the plan, which other ranks write before their shards
    if path.is_file():
        stored, wanted = json.loads(path.read_text(encoding="utf-8")), json.loads(text)
        differing = sorted(key for key in wanted if stored.get(key) != wanted[key])
        if differing:
            raise ValueError(
                f"{folder} holds a set that was begun with other settings ({', '.join(differing)} differ; see {PLAN}). "
                "Choose another `out`, or delete that folder."
            )
        return
    if begun:
        raise ValueError(f"{folder} holds shards without a {PLAN}. Choose another `out`, or delete them.")
    if (folder / MANIFEST).exists():
        raise ValueError(f"{folder} holds another data set: it has a {MANIFEST}, no {PLAN}. Choose another `out`.")
    write_text(path, text)


def _checked(plan: Plan, records: Iterator[Record], progress: Progress) -> Iterator[Record]:
    for latents, flipped, labels in records:
        copies = [latents] if flipped is None else [latents, flipped]
        wrong = [copy for copy in copies if copy.shape[1:] != plan.shape or str(copy.dtype) != plan.dtype]
        assert (flipped is not None) == plan.flip
        if wrong:
            raise ValueError(f"Found latents {wrong[0].shape, wrong[0].dtype}; expected {plan.shape}, {plan.dtype}.")
        if not all(np.isfinite(copy).all() for copy in copies):
            raise ValueError(
                f"Found a latent that is not finite in {plan.dtype}; expected finite ones from the source."
            )
        if labels.min() < 0 or labels.max() >= max(1, plan.num_classes):
            raise ValueError(
                f"Found the label {labels.max()}; expected 0 to {max(1, plan.num_classes) - 1} (num_classes)."
            )
        yield latents, flipped, labels.astype(np.int64)
        progress(len(labels))


def finish_set(
    folder: Path, plan: Plan, statistics: tuple[Sequence[float], Sequence[float]] | None = None
) -> Manifest | None:
    """Write the manifest once every shard is there (any rank may: all write the same); None until then.

    `statistics` are mean and std per channel that came with the source; without them they are the set's own.
    """
    names = [name for name, _ in plan.shards()]
    if not all((folder / name).is_file() for name in names):
        return None
    extra = {"order_seed": plan.seed, "record_size": plan.record_size, **plan.extra}
    manifest = describe(
        folder,
        names,
        name=plan.name,
        num_classes=plan.num_classes,
        origin=plan.origin,
        extra=extra,
        statistics=statistics,
        class_names=plan.class_names,
    )
    manifest.write(folder)
    return manifest


def describe(
    folder: Path,
    names: Sequence[str],
    name: str,
    num_classes: int,
    origin: str,
    extra: dict[str, Any],
    statistics: tuple[Sequence[float], Sequence[float]] | None = None,
    class_names: tuple[str, ...] | None = None,
) -> Manifest:
    """The manifest of the shards `names`, from their indices."""
    indices = [read_index(folder / shard) for shard in names]
    kinds = {(index.shape, index.dtype, index.flip) for index in indices}
    if len(kinds) != 1:
        raise ValueError(f"The shards of {folder} are of {len(kinds)} kinds (shape, dtype, flipped copy): {kinds}.")
    shape, dtype, flip = kinds.pop()
    mean, std = statistics or own_statistics(indices)
    if len(mean) != shape[0] or len(std) != shape[0] or not all(s > 0 for s in std):
        raise ValueError(
            f"Found statistics of {len(mean)} channels, std {min(std):.3g} or more; expected {shape[0]}, > 0."
        )
    shards = [
        {
            "name": shard,
            "samples": len(index.labels),
            "records": len(index.records),
            "bytes": index.size,
            "sha256": index.sha256,
        }
        for shard, index in zip(names, indices, strict=True)
    ]
    metadata = {"kind": "latents", "dtype": dtype, "flip": flip, "statistics": "given" if statistics else "whole set"}
    return checked(
        Manifest(
            name=name,
            shape=shape,
            num_classes=num_classes,
            mean=tuple(map(float, mean)),
            std=tuple(map(float, std)),
            split={"train": sum(len(index.labels) for index in indices)},
            content_hash=hashlib.sha256("".join(index.sha256 for index in indices).encode()).hexdigest(),
            origin=origin,
            extra={**metadata, **extra, "shards": shards},
            class_names=class_names,
        )
    )


def own_statistics(indices: Sequence[ShardIndex]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel over all latents (not their flipped copies), by sums in float64."""
    _, H, W = indices[0].shape
    count = sum(len(index.labels) for index in indices) * H * W
    mean = np.sum([index.total for index in indices], axis=0) / count
    square = np.sum([index.squares for index in indices], axis=0) / count
    return mean.tolist(), np.sqrt(np.maximum(square - mean**2, 1e-12)).tolist()
