"""Which sampler suits a method: its tuned run at a few steps with each of them."""

import math
from dataclasses import replace
from pathlib import Path

import torch
from omegaconf import DictConfig

from decm.data.loader import Dataset
from decm.experiment.build import build_dataset, build_evaluator, build_protocol
from decm.experiment.models import load_model
from decm.protocols.protocol import EvaluationProtocol

NFES = (2, 4, 50)
SAMPLERS = ("consistency", "n2n_then_consistency", "flow_map_steps", "euler")
Scores = dict[str, dict[str, float]]  # {NFE: {sampler: metric}}


def parts(cfg: DictConfig, runs: Path) -> tuple[Dataset, EvaluationProtocol]:
    """Data set and bench of a configuration, whose caches are made now if there are none."""
    cfg.runs = str(runs)
    torch.set_num_threads(cfg.trainer.threads or torch.get_num_threads())
    dataset = build_dataset(cfg)
    return dataset, build_protocol(cfg, dataset)


def score_samplers(folder: Path, dataset: Dataset, bench: EvaluationProtocol) -> Scores:
    """The metric of a finished run at each NFE with each sampler, the same seeds for all."""
    model = load_model(str(folder), "cpu")
    plain = build_evaluator(model.cfg, bench, dataset)
    scores: Scores = {}
    for nfe in NFES:
        scores[str(nfe)] = {}
        for sampler in SAMPLERS:
            evaluator = replace(plain, samplers={nfe: sampler})
            found = evaluator(model.flow_map, [nfe], model.cfg.evaluation.num_samples, model.trained_on)
            assert found is not None
            scores[str(nfe)][sampler] = found[nfe]["value"]
    return scores


def best(scores: Scores) -> dict[str, str]:
    """The best sampler by NFE."""
    return {nfe: min((v, name) for name, v in values.items() if math.isfinite(v))[1] for nfe, values in scores.items()}


def sampler_table(by_method: dict[str, Scores]) -> str:
    """Markdown: a line for each method and NFE, the best in bold."""
    lines = [f"| method | NFE | {' | '.join(SAMPLERS)} |", f"| --- | ---: |{' ---: |' * len(SAMPLERS)}"]
    for name, scores in by_method.items():
        chosen = best(scores)
        for nfe, values in scores.items():
            cells = [f"**{values[s]:.4g}**" if s == chosen[nfe] else f"{values[s]:.4g}" for s in SAMPLERS]
            lines.append(f"| {name} | {nfe} | {' | '.join(cells)} |")
    return "\n".join(lines)
