"""`decm data`: a data set of a folder of images, for `data=folder`."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from decm.data.arrays import check_place, write_arrays
from decm.data.image_files import ImageFile, find_images
from decm.data.making.class_names import names_from
from decm.data.making.images import Load, intact, load_image
from decm.data.manifest import MANIFEST
from decm.data.raw import integer_labels
from decm.data.split import split_by_class
from decm.evaluation.progress import progress

LARGEST = 2**32  # bytes of a set, which is held in memory


def task(cfg: DictConfig) -> None:
    """Crop, scale, split and normalize the images, and write them with their manifest."""
    out = Path(cfg.out)
    if (out / MANIFEST).exists() and not cfg.overwrite:
        raise ValueError(f"{out} holds a data set already. Choose another folder, or set overwrite=true.")
    check_place(out)
    if cfg.size < 1 or cfg.channels not in (1, 3):
        raise ValueError(f"size={cfg.size}, channels={cfg.channels}; expected 1 pixel or more, and 1 or 3 channels.")
    files, found, others = find_images(cfg.images, "images")
    if others:
        print(f"Skipped below {cfg.images}, as no images of a class: {others}.", flush=True)
    held = held_out(cfg.heldout, len(files))
    classes = cfg.num_classes if cfg.num_classes is not None else found
    if classes < found:
        raise ValueError(f"num_classes={classes}, but {cfg.images} has {found} classes.")
    names = names_from(cfg.class_names, cfg.images)
    if len(names or ()) > classes:
        raise ValueError(f"class_names={cfg.class_names!r} has {len(names or ())} names, for {classes} classes.")
    check_size(len(files), cfg)
    load = partial(load_image, side=cfg.size, gray=cfg.channels == 1, exif_orientation=cfg.exif_orientation)
    files, note = intact(files, load, cfg.on_corrupt)
    if note:
        print(note, flush=True)
        held = held_out(cfg.heldout, len(files))
    labels = integer_labels(np.array([file.label for file in files]), f"{cfg.images}: labels", classes).tolist()
    rows_train, rows_heldout = split_by_class(labels, held, cfg.seed)
    if not rows_heldout:
        raise ValueError(f"Every class of {cfg.images} has a single image; expected a class that has two.")
    if len(rows_heldout) < held:
        print(f"heldout={cfg.heldout} would leave classes without training images: held out are {len(rows_heldout)}.")
    arrays: dict[str, Tensor] = {}
    with progress(out.name, len(files)) as advance:
        for split, rows in (("heldout", rows_heldout), ("train", rows_train)):
            arrays[f"{split}_x"] = read_images([files[row] for row in rows], load, advance)
            arrays[f"{split}_y"] = torch.tensor([labels[row] for row in rows])
    turned = "turned upright by EXIF" if cfg.exif_orientation else "as stored"
    origin = f"images of {Path(cfg.images).name}, {turned}, center crop to {cfg.size} as ADM"
    manifest = write_arrays(out, arrays, out.name, classes, origin, names)
    print(
        f"{out}: {manifest.split['train']} images of {manifest.shape} and {len(rows_heldout)} held out, "
        f"{manifest.classes()}. Train on them with data=folder data.path={out}"
    )


def held_out(share: float, count: int) -> int:
    """How many of `count` images are held out. Raises ValueError for a share that leaves a part empty."""
    held = round(share * count)
    if not (0 < share < 1 and 0 < held < count):
        raise ValueError(
            f"heldout={share} of {count} images holds out {held}; expected a share that leaves at least one image in "
            "each part."
        )
    return held


def check_size(count: int, cfg: DictConfig) -> None:
    """Raise ValueError for a set that is too large to be held in memory."""
    needed = 4 * count * cfg.channels * cfg.size**2
    if needed > LARGEST:
        raise ValueError(
            f"{count} images of {cfg.channels}x{cfg.size}x{cfg.size} take {needed / 2**30:.2f} GiB of memory; expected "
            f"{LARGEST / 2**30:.0f} at most. Choose a smaller size, or train on latents: `decm latents encode`."
        )


def read_images(files: list[ImageFile], load: Load, advance) -> Tensor:  # type: ignore[no-untyped-def]
    """Raw images [N, C, size, size] in [0, 1]."""
    images = []
    for file in files:
        images.append(load(file))
        advance(1)
    return torch.stack(images).float() / 255
