"""`decm consolidate`: one safetensors file of a checkpoint's weights, which every verb takes as a checkpoint."""

import json
from pathlib import Path

from omegaconf import DictConfig
from safetensors.torch import save_file

from decm.checkpoints.code_version import code_version
from decm.checkpoints.durable import check_place, write_whole
from decm.generator.checkpoints import CONSOLIDATED, EMA, STUDENT, read_checkpoint, weights_of

PREFIXES = {"ema": EMA, "student": STUDENT}


def task(cfg: DictConfig) -> None:
    """Write `out`, whole or not at all, and say what it holds."""
    out = Path(cfg.out)
    if out.suffix != CONSOLIDATED:
        raise ValueError(f"out={cfg.out}; expected a file name that ends in {CONSOLIDATED}.")
    if cfg.weights not in PREFIXES:
        raise ValueError(f"weights={cfg.weights!r} is unknown; expected {' or '.join(PREFIXES)}.")
    check_place(out)
    checkpoint = read_checkpoint(cfg.checkpoint)
    weights = {key: value.contiguous() for key, value in weights_of(checkpoint, PREFIXES[cfg.weights]).items()}
    metadata = {
        "decm_config": json.dumps(checkpoint["decm_config"]),
        "global_step": str(checkpoint["global_step"]),
        "weights": cfg.weights,
        "code_version": code_version(),
        "manifest": json.dumps(checkpoint["manifest"]),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, lambda part: save_file(weights, part, metadata))
    count = sum(value.numel() for value in weights.values())
    print(f"{out}: {cfg.weights} of {cfg.checkpoint} at step {checkpoint['global_step']}, {count:,} values")
