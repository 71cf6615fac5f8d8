"""Finished runs as rows: mean and standard error over seeds, which are paired across rows."""

import csv
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf

from decm.experiment.build import build_network
from decm.experiment.dry_run import forward_equivalents
from decm.settings.composition import compose, plain

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A finished distillation."""

    folder: Path
    results: dict[str, Any]
    config: dict[str, Any]

    @property
    def cost(self) -> float:
        return float(self.results["forward_equivalents"])


def read_run(folder: Path) -> Run:
    """The run of a folder that has results."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return Run(folder, results, yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))


def mean_sem(values: list[float], digits: int = 4) -> dict[str, float]:
    """Mean and standard error of the mean (0 for a single value)."""
    sem = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"mean": round(statistics.fmean(values), digits), "sem": round(sem, digits)}


def summary(name: str, runs: dict[int, Run], **more: Any) -> Row:
    """One row: each NFE's mean and standard error, the same over the teacher's most steps, what is known besides."""
    first = next(iter(runs.values()))
    nfes = list(first.results["student"])
    most = nfes[-1]

    def over_seeds(value: Any, keys: list[str] = nfes) -> dict[str, Any]:
        return {key: mean_sem([value(run.results, key) for run in runs.values()]) for key in keys}

    row: Row = {"name": name, "nfe": over_seeds(lambda found, nfe: found["student"][nfe])}
    if first.results["teacher"]:
        row[f"over_teacher_{most}"] = over_seeds(lambda found, nfe: found["student"][nfe] / found["teacher"][most])
        row["teacher"] = over_seeds(lambda found, nfe: found["teacher"][nfe])
    if first.results.get("accuracy"):
        row["accuracy"] = over_seeds(lambda found, nfe: found["accuracy"][nfe])
    if first.results.get("map_error"):
        row["map_error"] = over_seeds(lambda found, key: found["map_error"][key], list(first.results["map_error"]))
    cost, steps = statistics.fmean(run.cost for run in runs.values()), first.config["max_steps"]
    return (
        row
        | {
            "samplers": first.results["samplers"],
            "forward_equivalents": cost,
            "steps": steps,
            "forward_equivalents_per_sample": round(cost / steps / first.config["batch_size"], 3),
            "seconds": [run.results["seconds"] for run in runs.values()],
            "seeds": sorted(runs),
            "code_version": sorted({run.results["code_version"] for run in runs.values()}),
        }
        | more
    )


def teacher_row(run: Run) -> Row | None:
    """The teacher that the students of these settings learn from, at its own cost; None where there is none."""
    found = run.results["teacher"]
    if not found:
        return None
    row: Row = {
        "name": "teacher",
        "nfe": {nfe: {"mean": round(value, 4), "sem": 0.0} for nfe, value in found.items()},
        "samplers": dict.fromkeys(found, "euler"),
        "seeds": [],
    }
    if run.config["teacher"]["kind"] == "auto":
        cfg = OmegaConf.create(plain(compose("train", [f"experiment={run.config['teacher']['experiment']}"])))
        cfg.network = {**run.config["network"], "two_times": False}
        with torch.device("meta"):
            network = build_network(cfg.network, 0)
        cost = forward_equivalents(cfg, network)
        row |= {
            "forward_equivalents": cost,
            "steps": cfg.max_steps,
            "seeds": [cfg.seed],
            "forward_equivalents_per_sample": round(cost / cfg.max_steps / cfg.batch_size, 3),
        }
    return row


def paired(runs: dict[int, Run], others: dict[int, Run], nfe: str) -> dict[str, Any]:
    """Mean and standard error of the difference to other runs at an NFE, over the seeds that both have."""
    seeds = sorted(set(runs) & set(others))
    gaps = [runs[seed].results["student"][nfe] - others[seed].results["student"][nfe] for seed in seeds]
    return {**mean_sem(gaps), "seeds": seeds}


def logged(run: Run, metric: str) -> dict[int, float]:
    """{step: value} of a metric that was taken in the loop."""
    with (run.folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return {int(row["step"]): float(row[metric]) for row in csv.DictReader(file) if row.get(metric)}


def curve(runs: dict[int, Run], metric: str) -> list[dict[str, float]]:
    """A metric of the loop against the cost up to there, over seeds; the cost rises evenly with the steps."""
    by_seed = [logged(run, metric) for run in runs.values()]  # empty where nothing was taken
    first = next(iter(runs.values()))
    steps = sorted(set.intersection(*map(set, by_seed)))
    return [
        {
            "forward_equivalents": round(first.cost * step / first.config["max_steps"]),
            "step": step,
            **mean_sem([values[step] for values in by_seed]),
        }
        for step in steps
    ]
