"""`decm reference`: the statistics that samples are compared with, from a folder of images or a data set."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from decm.cli.models import pick_device
from decm.cli.scores import code_version
from decm.data.manifest import to_pixels
from decm.evaluation.features import build_extractor
from decm.evaluation.images import image_batches, list_images
from decm.evaluation.statistics import build_reference, write_reference

Source = tuple[Iterator[Tensor], int, str]  # batches of uint8 images, how many images, what they are


def task(cfg: DictConfig) -> None:
    """Write `out`, with its provenance inside, and say what it holds."""
    out = Path(cfg.out)
    if out.suffix != ".npz":
        raise ValueError(f"out={cfg.out}; expected a file name that ends in .npz.")
    if out.exists() and not cfg.overwrite:
        raise ValueError(f"{out} exists. Choose another name, or set overwrite=true.")
    batches, count, what = source(cfg)
    extractor = build_extractor(cfg.features, cfg.weights, key="weights")
    extractor.to(pick_device(cfg.device))
    if extractor.note:
        print(extractor.note, flush=True)
    with progress_bar(count, "images") as advance:
        reference = build_reference(batches, extractor, what, code_version(), cfg.keep, advance)
    if cfg.size:
        reference.provenance["resize"] = f"center crop to {cfg.size} as ADM; {extractor.resize}"
    write_reference(out, reference)
    print(f"{out}: {what}, {count} images, features {cfg.features}")


def source(cfg: DictConfig) -> Source:
    """Where the images come from. Raises ValueError unless exactly one place is named."""
    if (cfg.images is None) == (cfg.data is None):
        raise ValueError("Name one source of images: images=<folder>, or data=digits (or data=folder data.path=...).")
    if cfg.images is not None:
        paths = list_images(cfg.images)
        return image_batches(paths, cfg.size, cfg.batch_size), len(paths), f"folder {Path(cfg.images).name}"
    if cfg.size:
        raise ValueError("size=... crops the files of images=<folder>; a data set's images have their size already.")
    return data_images(cfg, instantiate(cfg.data))


def data_images(cfg: DictConfig, dataset: Any) -> Source:
    """The images of one split of a data set, in its order. Raises ValueError for a set that has no stored images."""
    if cfg.split not in ("train", "heldout"):
        raise ValueError(f"split={cfg.split}; expected train or heldout.")
    manifest = dataset.manifest
    if hasattr(dataset, "images"):  # latents bring their own decoded images: images(split, batch_size)
        batches, count = dataset.images(cfg.split, cfg.batch_size), manifest.split[cfg.split]
    elif hasattr(dataset, f"{cfg.split}_x") and manifest.shape[0] in (1, 3):
        states = getattr(dataset, f"{cfg.split}_x")
        batches, count = (to_pixels(x, manifest) for x in states.split(cfg.batch_size)), len(states)
    else:
        raise ValueError(f"Data {manifest.name!r} has states of shape {manifest.shape}, which are no images.")
    return batches, count, f"{manifest.name}, {cfg.split}, content {manifest.content_hash[:16]}"


@contextmanager
def progress_bar(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A bar with an ETA: `with progress_bar(total, what) as advance: advance(n)`."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task_id = bar.add_task(what, total=total)
        yield lambda n: bar.advance(task_id, n)
