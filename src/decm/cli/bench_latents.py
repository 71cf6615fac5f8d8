"""`evaluation=imagenet`: latents are decoded to pictures, which are judged against reference statistics."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decm.cli.bench import Bench
from decm.cli.scores import code_version
from decm.cli.stored import local_device
from decm.data.latents import LatentDataset
from decm.data.manifest import Manifest
from decm.evaluation.features import Extractor, build_extractor
from decm.evaluation.pictures import ImagePainter
from decm.evaluation.statistics import Reference, build_reference, read_reference, write_reference
from decm.evaluation.suite import KEEP, SuiteJudge
from decm.flow.randomness import normal

PROJECTION = "projection"
PROJECTED = "pictures are a linear projection of latents, no autoencoder"
SPREAD = 48.0  # 8-bit levels to a standard deviation of a projected channel
Decoder = Callable[[Tensor], Tensor]


class Projection:
    """States [B, C, h, w] -> uint8 pictures [B, 3, h, w]: 127.5 + 48 P x, clipped; P [3, C] is fixed, of unit rows.

    It stands in for an autoencoder where there is none, as for synthetic latents. Each table says so.
    """

    note = PROJECTED

    def __init__(self, channels: int) -> None:
        rows = normal(0, "latents/projection", torch.arange(3), (channels,))
        self.matrix = rows / rows.norm(dim=1, keepdim=True)  # [3, C]
        self.facts: dict[str, Any] = {"kind": PROJECTION}

    def __call__(self, x: Tensor) -> Tensor:
        colors = torch.einsum("kc,bchw->bkhw", self.matrix, x.float().cpu())
        return (127.5 + SPREAD * colors).round().clamp(0, 255).to(torch.uint8)


class Decoded:
    """States [B, C, h, w] -> uint8 pictures [B, 3, H, W] by an autoencoder of a local file, `chunk` at a time."""

    note = ""

    def __init__(self, manifest: Manifest, settings: Mapping[str, Any], device: str) -> None:
        try:
            from decm.cli.encode import build_autoencoder
        except ImportError as error:
            raise ValueError(str(error)) from error
        if not settings.get("path"):
            raise ValueError(
                "evaluation.bench.autoencoder.path is not set: pictures need the weights of the autoencoder that made "
                "the latents. Set it to the file, or evaluation.bench.autoencoder.kind=projection to try things out."
            )
        overrides = {"half_precision": None, **(settings.get("args") or {})}  # bfloat16 on CUDA
        self.autoencoder, self.facts = build_autoencoder(settings["kind"], overrides, settings["path"])
        if self.autoencoder.latent_channels != manifest.shape[0]:
            raise ValueError(
                f"The autoencoder {settings['path']} has latents of {self.autoencoder.latent_channels} channels, but "
                f"data set {manifest.name!r} has {manifest.shape[0]}. Set evaluation.bench.autoencoder to its maker."
            )
        self.autoencoder.to(device)
        self.chunk = int(settings.get("chunk") or 16)
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (manifest.mean, manifest.std))

    def __call__(self, x: Tensor) -> Tensor:
        images = self.autoencoder.decode(x.float().cpu() * self.std + self.mean, self.chunk)
        return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def latent_images(
    dataset: LatentDataset, cache: Path, autoencoder: Mapping[str, Any], features: str = "inception",
    weights: str | None = None, reference: str | None = None, num_reference: int = KEEP, keep: int = KEEP,
    dinov2: Mapping[str, str] | None = None, spatial: bool = True,
) -> Bench:  # fmt: skip
    """Latents as pictures: FID and what goes with it; and FDD where `dinov2` has weights (and a reference).

    Without `reference` the statistics are those of the first `num_reference` latents of the set itself, decoded in
    the same way, and kept in `cache`. `spatial=False` leaves sFID out of such statistics.
    """
    if not isinstance(dataset, LatentDataset):
        raise ValueError(
            "evaluation=imagenet decodes latents. Choose data=latents data.path=..., or data=latents_synth."
        )
    device = local_device("cuda" if torch.cuda.is_available() else "cpu")
    plain = autoencoder["kind"] == PROJECTION
    decode = Projection(dataset.manifest.shape[0]) if plain else Decoded(dataset.manifest, autoencoder, device)

    def pair(extractor: Extractor, path: str | None) -> tuple[Extractor, Reference]:
        if path:
            return extractor, read_reference(path)
        return extractor, own_reference(dataset, decode, extractor.to(device), num_reference, cache, spatial)

    pairs = [pair(build_extractor(features, weights), reference)]
    if dinov2:
        second = build_extractor("dinov2", dinov2.get("weights"), "evaluation.bench.dinov2.weights")
        pairs.append(pair(second, dinov2.get("reference")))
    judge = SuiteJudge(pairs, decode, keep=keep, device=device)
    if decode.note:
        judge.reference += f"; {decode.note}"
    return Bench(judge, ImagePainter(decode))


def stored_states(dataset: LatentDataset, num: int, batch_size: int = 64) -> Iterator[Tensor]:
    """The first `num` latents as they are stored, normalized, in batches [<= batch_size, C, h, w]."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (dataset.manifest.mean, dataset.manifest.std))
    done = 0
    for record in range(len(dataset.records)):
        if done >= num:
            return
        states = torch.from_numpy(dataset.records.read(record).astype("float32")[: num - done])
        done += len(states)
        yield from ((states - mean) / std).split(batch_size)


def own_reference(
    dataset: LatentDataset, decode: Projection | Decoded, extractor: Extractor, num: int, cache: Path, spatial: bool
) -> Reference:
    """Statistics of the set's own pictures, computed once for each content, autoencoder and features."""
    num = min(num, len(dataset))
    weights: Iterator[Tensor] = extractor.parameters()  # type: ignore[attr-defined]
    network = float(sum(p.double().abs().sum() for p in weights))
    facts = [dataset.manifest.content_hash, decode.facts, extractor.name, network, num, spatial]
    key = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:16]
    path = cache / f"reference_{key}.npz"
    if not path.is_file():
        print(f"Statistics of {num} pictures of {dataset.manifest.name}, once: {path}", flush=True)
        what = f"{dataset.manifest.name}, its own first latents, decoded"
        pictures = (decode(states) for states in stored_states(dataset, num))
        made = build_reference(pictures, extractor, what, code_version(), keep=min(num, 10_000))
        if not spatial:
            made.moments.pop("spatial", None)
        part = path.with_name(f".{os.getpid()}-{path.name}")  # several ranks may make it at once
        write_reference(part, made)
        part.replace(path)
    return read_reference(path)
