"""Run folders made by hand, with known figures."""

import json
from pathlib import Path

import torch
import yaml

from decm.evaluation.pictures import ImagePainter
from decm.runs.run import Run
from helpers import seeded

CONFIG = {
    "name": "toy",
    "seed": 3,
    "max_steps": 40,
    "batch_size": 8,
    "optimizer": {"lr": 0.001, "betas": [0.9, 0.99]},
    "network": {"num_classes": 4},
    "evaluation": {"nfe": [1, 2], "every_num_samples": 50, "seed": 1000},
    "method": {"consistency": {"weight": 1.0}},
    "runs": "runs",
    "report": True,
    "debug": False,
}
RESULTS = {
    "experiment": "toy",
    "seed": 3,
    "metric": "frechet_distance",
    "reference": "data",
    "num_samples": 100,
    "floor": {"value": 0.125},
    "samplers": {"1": "jump", "2": "n2n_then_consistency"},
    "teacher": {"1": 9.5, "2": 1.25},
    "student": {"1": 1.5, "2": 1.125},
    "accuracy": {"1": 0.9, "2": 0.95},
    "seconds": {"teacher": 10.4, "distill": 99.6, "evaluate": 3.0},
    "teacher_reused": True,
    "forward_equivalents": 123456.0,
    "code_version": "0.1",
}


def metrics_text(steps=40):
    lines = ["step,loss/consistency,tangent/consistency,grad_norm,speed/samples_per_s,fd/1"]
    lines += [f"{k},{1 / (k + 1)},{2 / (k + 1)},0.5,{1000 + k},{3.0 if k == steps - 1 else ''}" for k in range(steps)]
    return "\n".join(lines) + "\n"


def painter():
    return ImagePainter(lambda x: x, columns=4, side=8)


def images(num, seed=0):
    return torch.randint(255, (num, 1, 8, 8), generator=seeded(seed), dtype=torch.uint8)  # never white


def make_folder(folder: Path, config=CONFIG, results=RESULTS, seed=0):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.csv").write_text(metrics_text())
    if results:
        (folder / "results.json").write_text(json.dumps(results))
    painter().compare({t: images(4, seed) for t in ("teacher, 2", "1 step", "2 steps")}, folder / "comparison.png")
    for nfe in (1, 2):
        painter().grid(images(6, seed), folder / f"samples_nfe{nfe}.png")
    return folder


def make_run(folder: Path, config=CONFIG, defaults=CONFIG, results=RESULTS, seed=0):
    make_folder(folder, config, results, seed)
    return Run(folder, config, defaults, results, "finished" if results else "unfinished", 4321)
