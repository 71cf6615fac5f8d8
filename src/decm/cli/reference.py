"""`decm reference`: the statistics that samples are compared with, from a folder of images or a data set."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from decm.checkpoints.code_version import code_version
from decm.checkpoints.durable import check_place
from decm.data.image_files import find_images
from decm.data.making.images import image_batches, intact, load_image
from decm.evaluation.devices import compute_device, pick_device
from decm.evaluation.progress import progress
from decm.evaluation.statistics import build_reference, write_reference
from decm.experiment.build import made
from decm.features.build import build_extractor
from decm.generator.decode import build_decoder
from decm.protocols.images import stored_states

Source = tuple[Iterator[Tensor], int, str]  # batches of uint8 images, how many images, what they are


def task(cfg: DictConfig) -> None:
    """Write `out`, with its provenance inside, and say what it holds."""
    out = Path(cfg.out)
    if out.suffix != ".npz":
        raise ValueError(f"out={cfg.out}; expected a file name that ends in .npz.")
    if out.exists() and not cfg.overwrite:
        raise ValueError(f"{out} exists. Choose another name, or set overwrite=true.")
    check_place(out)
    batches, count, what = source(cfg)
    extractor = build_extractor(cfg.features, cfg.weights, key="weights")
    extractor.to(pick_device(cfg.device))
    if extractor.note:
        print(extractor.note, flush=True)
    with progress("images", count) as advance:
        reference = build_reference(batches, extractor, what, code_version(), cfg.keep, advance)
    if cfg.size:
        reference.provenance["resize"] = f"center crop to {cfg.size} as ADM; {extractor.resize}"
    if cfg.images is not None:
        reference.provenance["orientation"] = "turned upright by EXIF" if cfg.exif_orientation else "as stored"
    write_reference(out, reference)
    print(f"{out}: {what}, {count} images, features {cfg.features}")


def source(cfg: DictConfig) -> Source:
    """Where the images come from. Raises ValueError unless exactly one place is named.

    A folder's images are those that `decm data` and `decm latents encode` read of it, turned upright as there; ADM's
    reference batches were made of pictures as they are stored, which is `exif_orientation=false`.
    """
    if (cfg.images is None) == (cfg.data is None):
        raise ValueError("Name one source of images: images=<folder>, or data=digits (or data=folder data.path=...).")
    if cfg.images is not None:
        load = partial(load_image, side=cfg.size, exif_orientation=cfg.exif_orientation)
        files, _, others = find_images(cfg.images, "images", labeled=False)
        if others:
            print(f"Skipped below {cfg.images}, as no images: {others}.", flush=True)
        files, note = intact(files, load, cfg.on_corrupt)
        if note:
            print(note, flush=True)
        return image_batches(files, load, cfg.batch_size), len(files), f"folder {Path(cfg.images).name}"
    if cfg.size:
        raise ValueError("size=... crops the files of images=<folder>; a data set's images have their size already.")
    return data_images(cfg, made(cfg.data))


def data_images(cfg: DictConfig, dataset: Any) -> Source:
    """The images of one split of a data set, in its order. Raises ValueError for a set that has no stored images."""
    if cfg.split not in ("train", "heldout"):
        raise ValueError(f"split={cfg.split}; expected train or heldout.")
    manifest = dataset.manifest
    decode = build_decoder(manifest, cfg.autoencoder, device=compute_device())
    if getattr(dataset, "flip", False):
        raise ValueError(f"Data {manifest.name!r} are read as they are stored; set data.flip=false.")
    states, count = stored_states(dataset, cfg.split, batch_size=cfg.batch_size)
    what = f"{manifest.name}, {cfg.split}, content {manifest.content_hash[:16]}"
    return map(decode, states), count, f"{what}; {decode.note}" if decode.note else what
