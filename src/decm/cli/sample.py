"""`decm sample`: draw samples from a checkpoint into a picture."""

from pathlib import Path

import torch
from omegaconf import DictConfig

from decm.cli.build import build_bench, build_dataset, build_evaluator
from decm.cli.devices import pick_device
from decm.cli.models import load_model
from decm.evaluation.generate import check_labels, generate


def task(cfg: DictConfig) -> None:
    """`rows` samples of each label, a column a label; sample (row, label) has a seed of its own."""
    out = Path(cfg.out)
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"out={cfg.out}; expected a picture file, .png or .jpg.")
    device = pick_device(cfg.device)
    model = load_model(cfg.checkpoint, device)
    dataset = build_dataset(model.cfg)
    classes, names = dataset.manifest.num_classes, dataset.manifest.class_names
    if cfg.rows < 1:
        raise ValueError(f"rows={cfg.rows}; expected 1 or more samples of each label.")
    given = list(range(max(1, classes))) if cfg.labels is None else list(cfg.labels)
    wanted = check_labels(given, classes, names)
    bench = build_bench(model.cfg, dataset)
    painter = bench.painter
    if classes == 0:
        labels = torch.zeros(painter.columns, dtype=torch.int64)
    else:
        labels = wanted.repeat(cfg.rows)
        painter.columns = len(wanted)
    sampler = cfg.sampler or build_evaluator(model.cfg, bench, dataset).sampler(cfg.nfe, model.trained_on)
    samples = generate(model.flow_map, dataset.manifest.shape, labels, cfg.nfe, sampler, cfg.seed, device=device)
    out.parent.mkdir(parents=True, exist_ok=True)
    painter.grid(samples, out)
    print(f"{len(samples)} samples, {cfg.nfe} steps of {sampler}, seed {cfg.seed}: {out}")
