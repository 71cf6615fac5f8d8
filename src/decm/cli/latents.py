"""`decm latents encode|import|check|synth`: make or check a set of latents."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from decm.data.image_files import find_images, listing_hash
from decm.data.index import DTYPES, index_path, read_index
from decm.data.latents import latents_manifest
from decm.data.making.class_names import names_from
from decm.data.making.latent_check import check_set
from decm.data.making.latent_sets import Plan, Source, describe, finish_set, write_set
from decm.data.making.latent_sources import LightningDiTLatents, SyntheticLatents, synthetic_plan
from decm.data.manifest import MANIFEST, Manifest
from decm.data.raw import LATENT_CHANNELS, check_layout, integer_labels
from decm.data.shards import first_infinite
from decm.evaluation.devices import pick_device, rank_and_world
from decm.evaluation.progress import progress
from decm.settings.words import typed_words

WRITING = ("out", "num_classes", "class_names", "record_size", "shard_records", "seed")
USES = {
    "encode": {
        *WRITING,
        "source",
        "weights",
        "kind",
        "autoencoder",
        "image_size",
        "exif_orientation",
        "on_corrupt",
        "latent",
        "dtype",
        "flip",
        "batch_size",
        "workers",
        "device",
    },
    "import": {*WRITING, "source"},
    "check": {"path"},
    "synth": {*WRITING, "num", "shape", "dtype", "flip"},
}
NEEDS = {"encode": ("source", "out", "weights"), "import": ("source", "out"), "check": ("path",), "synth": ("out",)}


def task(cfg: DictConfig) -> None:
    """Do what `action` says. Raises ValueError for settings that the action lacks, or that it would ignore."""
    action = None if OmegaConf.is_missing(cfg, "action") else cfg.action
    if action not in USES:
        raise ValueError(f"action={action!r} is unknown; expected `decm latents {'|'.join(USES)}`.")
    missing = [key for key in NEEDS[action] if cfg[key] is None]
    if missing:
        raise ValueError(f"`decm latents {action}` needs {', '.join(f'{key}=...' for key in missing)}.")
    _refuse_ignored(action)
    if "dtype" in USES[action] and cfg.dtype not in DTYPES:
        raise ValueError(f"dtype={cfg.dtype!r}: expected one of {', '.join(DTYPES)}.")
    {"encode": encode, "import": import_, "check": check, "synth": synth}[action](cfg)


def _refuse_ignored(action: str) -> None:
    from hydra.core.hydra_config import HydraConfig

    if HydraConfig.initialized():
        given = {override.lstrip("+~").split("=")[0].split(".")[0] for override in typed_words(HydraConfig.get())}
        ignored = sorted(given - USES[action] - {"action", "debug"})
        if ignored:
            raise ValueError(
                f"`decm latents {action}` ignores {', '.join(ignored)}. It takes: {', '.join(sorted(USES[action]))}."
            )


def encode(cfg: DictConfig) -> None:
    """Encode a folder or tar shards of images; with torchrun, every rank makes its share of the shards."""
    from decm.cli.encode import EncodedImages
    from decm.data.making.images import intact
    from decm.generator.decode import build_autoencoder

    images, _, others = find_images(cfg.source)
    names = names_from(cfg.class_names, cfg.source)
    first = rank_and_world()[0] == 0
    if others and first:
        print(f"Skipped below {cfg.source}, as no images of a class: {others}.", flush=True)
    overrides = OmegaConf.to_container(cfg.autoencoder) if cfg.autoencoder else {}
    autoencoder, metadata = build_autoencoder(cfg.kind, overrides, cfg.weights)  # type: ignore[arg-type]
    source = EncodedImages(
        images=images,
        autoencoder=autoencoder,
        side=cfg.image_size,
        exif_orientation=cfg.exif_orientation,
        latent=cfg.latent,
        dtype=cfg.dtype,
        flip=cfg.flip,
        seed=cfg.seed,
        batch_size=cfg.batch_size,
        workers=cfg.workers,
    )
    images, note = intact(images, source.load, cfg.on_corrupt, cfg.workers)
    if note and first:
        print(note, flush=True)
    source = replace(source, images=images)
    autoencoder.to(pick_device(cfg.device))
    extra = {
        "autoencoder": metadata,
        "latent": f"posterior {cfg.latent}",
        "image_size": cfg.image_size,
        "crop": "center, as ADM",
        "exif_orientation": cfg.exif_orientation,
        "source_hash": listing_hash(images, cfg.source),
    }
    plan = _plan(
        cfg,
        np.array([image.label for image in images]),
        shape=source.shape,
        dtype=cfg.dtype,
        flip=cfg.flip,
        origin=f"images of {Path(cfg.source).name}, encoded",
        extra=extra,
        names=names,
    )
    _write(Path(cfg.out), plan, source)


def import_(cfg: DictConfig) -> None:
    """Import LightningDiT's latents into shards of 64-sample records; or take tar shards as they lie (out=source)."""
    if any(Path(cfg.source).glob("*.tar")):
        return _adopt(cfg)
    source = LightningDiTLatents(cfg.source)
    extra = {
        "latent": "as imported",
        "source_files": {path.name: path.stat().st_size for path in source.paths},
    }
    plan = _plan(
        cfg,
        source.labels,
        shape=source.shape,
        dtype=source.dtype,
        flip=source.flip,
        origin=f"LightningDiT's latents of {Path(cfg.source).name}, imported",
        extra=extra,
        names=names_from(cfg.class_names),
    )
    _write(Path(cfg.out), plan, source, source.statistics())


def _adopt(cfg: DictConfig) -> None:
    """Index tar shards of latents where they lie, and write their manifest."""
    folder = Path(cfg.source)
    if Path(cfg.out).resolve() != folder.resolve():
        raise ValueError(f"{folder} holds tar shards, which are taken as they lie: set out={folder}.")
    if (folder / MANIFEST).is_file():
        raise ValueError(f"{folder} is a set already, with {MANIFEST}. To take its shards anew, remove that file.")
    names, called = sorted(path.name for path in folder.glob("*.tar")), names_from(cfg.class_names)
    indices = {name: read_index(folder / name) for name in names}
    classes = _classes(cfg, np.concatenate([index.labels for index in indices.values()]))
    for name, index in indices.items():
        check_layout((len(index.labels), *index.shape), f"{folder / name}: latents", LATENT_CHANNELS)
        integer_labels(index.labels, f"{folder / name}: labels", classes)
        if not index.finite:
            record = first_infinite(folder / name)
            index_path(folder / name).unlink(missing_ok=True)  # so that a mended shard is read again
            raise ValueError(
                f"Shard {folder / name} holds latents that are not finite, in its record {record}. Make it again."
            )
    manifest = describe(
        folder,
        names,
        folder.name,
        classes,
        f"tar shards of {folder.name}, as they lay",
        {"latent": "as imported", "order": "as found, not permuted over the set"},
        class_names=called,
    )
    manifest.write(folder)
    _say(folder, manifest)


def synth(cfg: DictConfig) -> None:
    """Make a small set out of random numbers."""
    classes = 10 if cfg.num_classes is None else cfg.num_classes
    plan = synthetic_plan(
        Path(cfg.out).name, cfg.num, shape=cfg.shape, num_classes=classes, dtype=cfg.dtype, flip=cfg.flip, seed=cfg.seed
    )
    names = names_from(cfg.class_names) or plan.class_names
    plan = replace(plan, record_size=cfg.record_size, shard_records=cfg.shard_records, class_names=names)
    _write(Path(cfg.out), plan, SyntheticLatents(plan.shape, plan.num_classes, plan.dtype, plan.flip, plan.seed))


def check(cfg: DictConfig) -> None:
    """Read a set again and print what it holds."""
    manifest = latents_manifest(cfg.path)
    with progress("checking", manifest.split["train"]) as advance:
        summary = check_set(Path(cfg.path), advance)
    for name, value in summary.items():
        print(f"  {name:<18} {value}")
    print(f"{cfg.path} is in order.")


def _plan(
    cfg: DictConfig,
    labels: np.ndarray,
    shape: tuple[int, int, int],
    dtype: str,
    flip: bool,
    origin: str,
    extra: dict[str, Any],
    names: tuple[str, ...] | None,
) -> Plan:
    """The plan of a set of these labels [N]. Raises ValueError if some are no classes."""
    classes = _classes(cfg, labels)
    integer_labels(labels, f"{cfg.source}: labels", classes)
    return Plan(
        name=Path(cfg.out).name,
        samples=len(labels),
        shape=shape,
        dtype=dtype,
        num_classes=classes,
        flip=flip,
        origin=origin,
        extra=extra,
        record_size=cfg.record_size,
        shard_records=cfg.shard_records,
        seed=cfg.seed,
        class_names=names,
    )


def _classes(cfg: DictConfig, labels: np.ndarray) -> int:
    return int(labels.max()) + 1 if cfg.num_classes is None else int(cfg.num_classes)


def _write(
    folder: Path, plan: Plan, source: Source, statistics: tuple[Sequence[float], Sequence[float]] | None = None
) -> None:
    """Write this rank's shards, then the manifest if all are there."""
    rank, world_size = rank_and_world()
    shards = plan.shards()
    mine = sum(sum(map(len, rows)) for _, rows in shards[rank::world_size])
    with progress(f"{folder.name}, rank {rank}" if world_size > 1 else folder.name, mine) as advance:
        kept = write_set(folder, plan, source, rank, world_size, advance)
    if kept:
        print(f"{len(kept)} of the {len(shards)} shards were finished before.")
    manifest = finish_set(folder, plan, statistics)
    if manifest is None:
        print(f"Rank {rank} of {world_size} is done; the last one writes the manifest of {folder}.")
    else:
        _say(folder, manifest)


def _say(folder: Path, manifest: Manifest) -> None:
    print(
        f"{folder}: {manifest.split['train']} latents of {tuple(manifest.shape)}, {manifest.num_classes} classes, "
        f"{len(manifest.extra['shards'])} shards. Train on them with data=latents data.path={folder}"
    )
    print(f"Labels: {manifest.classes()}.")
