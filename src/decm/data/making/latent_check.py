"""Whether a set of latents is what was written: every shard read again, labels and statistics against the manifest."""

from pathlib import Path
from typing import Any

import numpy as np

from decm.data.index import ShardIndex, read_index, scan
from decm.data.latents import latents_manifest, shard_paths
from decm.data.making.latent_sets import Progress, own_statistics

TOLERANCE = {"whole set": 1e-4, "given": 0.2}  # of mean and log std against the set's own, in units of std


def check_set(folder: Path, progress: Progress) -> dict[str, Any]:
    """Read a whole set again; returns metadata about it. Raises ValueError that lists everything found wrong."""
    manifest = latents_manifest(folder)
    wrong, indices = [], []
    for path, shard in zip(shard_paths(folder, manifest), manifest.extra["shards"], strict=True):
        try:
            index = scan(path)
        except ValueError as error:
            wrong.append(str(error))
        else:
            if index.sha256 != shard["sha256"]:
                wrong.append(f"{path.name} is not what was written (SHA-256 differs){_where(path, index)}")
            if not index.finite:
                wrong.append(f"{path.name} has latents that are not finite")
            indices.append(index)
        progress(shard["samples"])
    labels = np.concatenate([index.labels for index in indices]) if indices else np.zeros(0, np.int64)
    if len(labels) != manifest.split["train"]:
        wrong.append(f"{len(labels)} intact samples, the manifest says {manifest.split['train']}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < max(1, manifest.num_classes):
        wrong.append(f"labels {labels.min()} to {labels.max()}, the manifest says {manifest.num_classes} classes")
    if indices:
        mean, std = (np.array(values) for values in own_statistics(indices))
        off = max(np.abs(mean - manifest.mean).max() / std.min(), np.abs(np.log(std / manifest.std)).max())
        if not off < TOLERANCE[manifest.extra["statistics"]]:
            wrong.append(f"mean and std of the latents are {off:.3g} (in std) from the manifest's")
    if wrong:
        raise ValueError(f"{folder} is not in order:\n  " + "\n  ".join(wrong))
    per_class = np.bincount(labels, minlength=max(1, manifest.num_classes))
    return {
        "samples": len(labels),
        "shape": tuple(manifest.shape),
        "dtype": manifest.extra["dtype"],
        "flipped copies": manifest.extra["flip"],
        "shards": len(indices),
        "classes": manifest.num_classes,
        "class names": manifest.classes(),
        "samples a class": f"{per_class.min()} to {per_class.max()}",
        "statistics off by": f"{off:.1e} std",
        "content hash": manifest.content_hash,
        "origin": manifest.origin,
    }


def _where(path: Path, index: ShardIndex) -> str:
    """Which record differs from the stored index, in words."""
    stored = read_index(path).records
    if len(stored) != len(index.records):
        return f": {len(index.records)} records, written were {len(stored)}"
    bad = np.flatnonzero(stored != index.records)
    return f": record {bad[0]} at byte {index.records['latents'][bad[0]]}" if len(bad) else ": outside of its latents"
