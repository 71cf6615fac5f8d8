"""`evaluation=images` and `evaluation=imagenet`: pictures, decoded where needed, against reference statistics."""

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from decm.checkpoints.code_version import code_version
from decm.data.latents import LatentDataset
from decm.data.loader import Dataset
from decm.data.stream import StreamedLatents
from decm.evaluation.devices import compute_device
from decm.evaluation.pictures import ImagePainter
from decm.evaluation.statistics import Reference, build_reference, read_reference, write_reference
from decm.evaluation.suite import KEEP, SuiteJudge
from decm.features.build import build_extractor
from decm.features.extractor import Extractor
from decm.generator.decode import AutoencoderSettings, Decoder, build_decoder
from decm.protocols.protocol import EvaluationProtocol


class Dinov2Settings(TypedDict):
    """The files of FDD: reference statistics of DINOv2's features, and its weights."""

    reference: str | None
    weights: str | None


def image_statistics(
    dataset: Dataset,
    cache: Path,
    autoencoder: AutoencoderSettings,
    reference: str | None = None,
    features: str = "inception",
    weights: str | None = None,
    dinov2: Dinov2Settings | None = None,
    num_reference: int = KEEP,
    keep: int = KEEP,
    spatial: bool = True,
) -> EvaluationProtocol:
    """Images against reference statistics: FID and what goes with it; and FDD where `dinov2` has something set.

    `autoencoder` decodes latents, see decode.py. Without `reference` the statistics are those of the first
    `num_reference` samples of the set itself, and kept in `cache`; `spatial=False` leaves sFID out of them.
    Raises ValueError for a missing file, by its setting.
    """
    device = compute_device()
    references = [
        read_reference(path) if path else None for path in (reference, dinov2["reference"] if dinov2 else None)
    ]
    decode = build_decoder(dataset.manifest, autoencoder, "evaluation.protocol.autoencoder", device)

    def pair(extractor: Extractor, known: Reference | None) -> tuple[Extractor, Reference]:
        if known is not None:
            return extractor, known
        return extractor, own_reference(dataset, decode, extractor.to(device), num_reference, cache, spatial)

    pairs = [pair(build_extractor(features, weights), references[0])]
    if dinov2 and any(dinov2.values()):
        second = build_extractor("dinov2", dinov2["weights"], "evaluation.protocol.dinov2.weights")
        pairs.append(pair(second, references[1]))
    judge = SuiteJudge(pairs, decode, keep=keep, device=device)
    if decode.note:
        judge.reference += f"; {decode.note}"
    return EvaluationProtocol(judge, ImagePainter(decode))


def stored_states(
    dataset: Any, split: str = "train", num: int | None = None, batch_size: int = 64
) -> tuple[Iterator[Tensor], int]:
    """(batches [<= batch_size, C, H, W], how many states): the first `num` (None: all) of a split, as they are stored.

    A set of latents is read record by record. Raises ValueError for a set without stored states of the split.
    """
    if hasattr(dataset, f"{split}_x"):
        states = getattr(dataset, f"{split}_x")[:num]
        return iter(states.split(batch_size)), len(states)
    if split != "train" or not isinstance(dataset, LatentDataset | StreamedLatents):
        raise ValueError(f"Data {dataset.manifest.name!r} has no stored states of split={split}; expected split=train.")
    count = len(dataset) if num is None else min(num, len(dataset))
    return stored_latents(dataset, count, batch_size), count


def stored_latents(dataset: LatentDataset | StreamedLatents, num: int, batch_size: int) -> Iterator[Tensor]:
    """The first `num` latents, normalized, in batches within their records."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (dataset.manifest.mean, dataset.manifest.std))
    if isinstance(dataset, StreamedLatents):
        samples = islice((x for shard in range(len(dataset.paths)) for x, _, _ in dataset.read(shard)), num)
        while batch := list(islice(samples, batch_size)):
            yield (torch.from_numpy(np.stack(batch).astype("float32")) - mean) / std
        return
    for record in range(len(dataset.records)):
        if num <= 0:
            return
        states = torch.from_numpy(dataset.records.read(record).astype("float32")[:num])
        num -= len(states)
        yield from ((states - mean) / std).split(batch_size)


def own_reference(
    dataset: Dataset, decode: Decoder, extractor: Extractor, num: int, cache: Path, spatial: bool
) -> Reference:
    """Statistics of the set's own pictures, computed once for each content, autoencoder and features."""
    manifest, (states, num) = dataset.manifest, stored_states(dataset, num=num)
    weights: Iterator[Tensor] = extractor.parameters()  # type: ignore[attr-defined]
    network = float(sum(p.double().abs().sum() for p in weights))
    parts = [manifest.content_hash, decode.metadata, extractor.name, network, num, spatial]
    key = hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]
    path = cache / f"reference_{key}.npz"
    if not path.is_file():
        print(f"Statistics of {num} pictures of {manifest.name}, once: {path}", flush=True)
        what = f"{manifest.name}, its own first pictures"
        made = build_reference(map(decode, states), extractor, what, code_version(), keep=min(num, 10_000))
        if not spatial:
            made.moments.pop("spatial", None)
        write_reference(path, made)
    return read_reference(path)
