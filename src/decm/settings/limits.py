"""Limits of settings that hold wherever they stand: whole numbers by the last part of their name, and folder names."""

import math
import os
from typing import Any

from omegaconf import DictConfig, OmegaConf

from decm.runs.state import NOT_RUNS

MOST_SEED = 2**63 - 1  # what torch, numpy and scikit-learn are seeded with
MOST = 2**31 - 1  # of what is counted
AT_LEAST_1 = (
    "max_steps",
    "batch_size",
    "accumulate",
    "rows",
    "num_samples",
    "checkpoint_every",
    "log_every",
    "num_nodes",
    "size",
    "image_size",
    "chunk",
    "record_size",
    "shard_records",
    "workers",
    "num",
    "channels",
    "input_size",
    "patch_size",
    "in_channels",
    "hidden_size",
    "depth",
    "num_heads",
    "components",
    "num_map_points",
    "num_reference",
    "patience",
    "shape",
)
LONGEST_NAME = 200  # bytes of a folder's name; file systems take 255, and W&B and others add to it
MAY_BE_INFINITE = ("spike", "hang_timeout")
AT_LEAST_0 = (
    "every",
    "every_num_samples",
    "preview_every",
    "rollbacks",
    "warmup",
    "total",
    "heldout",
    "keep",
    "num_classes",
    "threads",
)


def check_limits(cfg: DictConfig) -> None:
    """Raise ValueError for a seed, a count, a step or a size that nothing can be made with, by the setting's name.

    Also for NaN and infinity, which would be found in the figures at best; some limits may be infinite.
    """
    container = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(container, dict)
    _check({key: value for key, value in container.items() if key != "hydra"}, "", "")


def _check(value: Any, key: str, name: str) -> None:
    if isinstance(value, dict):
        for part, one in value.items():
            _check(one, f"{key}.{part}" if key else str(part), str(part))
    elif isinstance(value, list):
        for one in value:
            _check(one, key, name)
    elif isinstance(value, float) and not (math.isfinite(value) or (value > 0 and name in MAY_BE_INFINITE)):
        raise ValueError(f"{key}={value}; expected a finite number.")
    elif isinstance(value, int) and not isinstance(value, bool):
        seed = name == "seed" or name.endswith("_seed")
        if not (seed or name in AT_LEAST_1 or name in AT_LEAST_0):
            return
        least, most = int(name in AT_LEAST_1), MOST_SEED if seed else MOST
        if value < least:
            raise ValueError(f"{key}={value}; expected {least} or more.")
        if value > most:
            raise ValueError(f"{key}={value}; expected {most} or less.")


def check_name(name: str) -> None:
    """Raise ValueError unless `name` is the name of one folder below runs=, where `decm runs` finds it."""
    plain = name.strip() == name and name.isprintable() and not name.startswith(".") and not set("/\\") & set(name)
    if not name or not plain:
        raise ValueError(
            f"name={name!r}; expected the name of one folder, without / and without a dot or a blank at its "
            "beginning. Where runs are written is runs=<folder>."
        )
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise ValueError(f"name={name[:20]}... has {len(os.fsencode(name))} bytes; expected {LONGEST_NAME} or fewer.")
    if name in NOT_RUNS:
        raise ValueError(f"name={name!r} is the name of a folder in which decm looks for no runs; choose another name.")
