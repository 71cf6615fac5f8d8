"""`decm sample`: draw samples from a checkpoint into a picture, with nothing but the checkpoint."""

from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from decm.checkpoints.durable import check_place
from decm.evaluation.devices import pick_device
from decm.evaluation.generate import check_labels
from decm.evaluation.pictures import ImagePainter, Painter, PointsPainter
from decm.flow.solvers import check_steps
from decm.generator.files import EXPECTED
from decm.generator.model import Generator, is_latent

MARGIN = 1.05  # of a picture of points whose data name no limit, beyond the outermost sample


def task(cfg: DictConfig) -> None:
    """`rows` samples of each label, a column a label; sample (row, label) has a seed of its own."""
    out = Path(cfg.out)
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"out={cfg.out}; expected a picture file, .png or .jpg.")
    check_place(out)
    if out.is_dir():
        raise ValueError(f"out={cfg.out} is a folder; expected a picture file in it, as out={out / 'samples.png'}.")
    if cfg.rows < 1:
        raise ValueError(f"rows={cfg.rows}; expected 1 or more samples of each label.")
    if not Path(cfg.checkpoint).exists():  # no name on the hub is looked for
        raise ValueError(f"checkpoint={cfg.checkpoint} does not exist; expected {EXPECTED.partition(', or')[0]}.")
    device = pick_device(cfg.device)
    generator = Generator.from_pretrained(cfg.checkpoint, device, cfg.batch_size, cfg.autoencoder)
    sampler = cfg.sampler or generator.sampler(cfg.nfe)
    check_steps(cfg.nfe, sampler)
    labels, columns = wanted_labels(generator, cfg)
    decode = None if are_points(generator) else generator.decoder()  # before the work is done
    out.parent.mkdir(parents=True, exist_ok=True)
    samples = generator.states(labels.tolist(), cfg.nfe, cfg.seed, sampler=sampler)
    painter: Painter = ImagePainter(decode, columns) if decode else PointsPainter(limit_of(generator, samples))
    painter.grid(samples, out)
    print(f"{len(samples)} samples, {cfg.nfe} steps of {sampler}, seed {cfg.seed}: {out}")


def wanted_labels(generator: Generator, cfg: DictConfig) -> tuple[Tensor, int]:
    """The labels of all samples [N], row by row, and how many stand in a row.

    Raises ValueError for what is no class, and for labels of a model without classes.
    """
    classes = generator.manifest.num_classes
    if classes == 0 and cfg.labels is not None:
        raise ValueError(f"labels={list(cfg.labels)} has no effect: this model has no classes.")
    if are_points(generator) and classes == 0:
        return torch.zeros(PointsPainter.columns, dtype=torch.int64), PointsPainter.columns
    if classes == 0:
        return torch.zeros(10 * cfg.rows, dtype=torch.int64), 10
    given = list(range(classes)) if cfg.labels is None else list(cfg.labels)
    wanted = check_labels(given, classes, generator.manifest.class_names)
    return wanted.repeat(cfg.rows), len(wanted)


def are_points(generator: Generator) -> bool:
    """Whether the states are points of the plane."""
    return generator.manifest.shape == (2, 1, 1) and not is_latent(generator.config["data"])


def limit_of(generator: Generator, samples: Tensor) -> float:
    """How far a picture of points reaches: as the data say, else to the outermost sample."""
    limit = generator.manifest.extra.get("limit")
    if limit is not None:
        return float(limit)
    finite = samples[samples.isfinite()]
    return MARGIN * max(float(finite.abs().max()), 1e-3) if len(finite) else 1.0
