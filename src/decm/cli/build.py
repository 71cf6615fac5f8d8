"""From a configuration to objects."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from safetensors import safe_open
from torch import nn

from decm.cli.bench import Bench
from decm.cli.runs import find_checkpoint
from decm.data.loader import Dataset
from decm.evaluation.evaluator import Evaluator
from decm.training.callbacks.trajectories import Trajectory
from decm.training.checkpoint_files import read_file
from decm.training.checkpoint_folder import newest_valid, step_of
from decm.training.sealed import DamagedError, NewerSchemaError

STUDENT, EMA = "student.", "ema."
TRUSTED = ("decm.", "torch.optim.")  # what the configuration in a checkpoint may call
CONSOLIDATED = ".safetensors"  # weights alone, of decm consolidate


def build_network(network: Any, seed: int, **overrides: Any) -> nn.Module:
    """The network of a config node, its weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return instantiate(network, **overrides)


def build_dataset(cfg: DictConfig) -> Dataset:
    """The data set; raises ValueError if the network does not fit its manifest."""
    dataset = instantiate(cfg.data)
    network = build_network(cfg.network, 0) if cfg.network is not None else None
    dataset.manifest.check_fits(network.shape, network.num_classes)  # type: ignore[union-attr]
    return dataset


def build_trajectories(cfg: DictConfig) -> list[Trajectory]:
    """The trajectory callbacks that the objective names."""
    if not cfg.objective:
        raise ValueError("`objective` has no segment. Choose one of conf/objective, or add a segment to it.")
    return [instantiate(node) for node in cfg.objective.values()]


def segment_names(cfg: DictConfig) -> list[str]:
    """What a model of this configuration is trained on: the names of its segments."""
    return [str(node.name) for node in cfg.objective.values()]


def build_bench(cfg: DictConfig, dataset: Dataset) -> Bench:
    """Judge, painter and exact maps for the data."""
    return instantiate(cfg.evaluation.bench, dataset=dataset, cache=Path(cfg.runs) / "cache")


def build_evaluator(cfg: DictConfig, bench: Bench, dataset: Dataset, device: str = "cpu") -> Evaluator:
    """The evaluator of a configuration."""
    e, manifest = cfg.evaluation, dataset.manifest
    samplers = {int(nfe): str(name) for nfe, name in (e.samplers or {}).items()}
    return Evaluator(bench.judge, manifest.shape, manifest.num_classes, e.seed, e.batch_size, samplers, device)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's contents, plain data and tensors only. Raises ValueError for anything else."""
    file = find_checkpoint(path)
    try:
        checkpoint = read_consolidated(file) if file.suffix == CONSOLIDATED else read_file(file)
    except NewerSchemaError:
        raise
    except Exception as error:  # whatever the reader says, the file is not ours
        why = error.why if isinstance(error, DamagedError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{file} is not a checkpoint of decm, or it is damaged: {why}.{instead_of(file)}") from error
    if not isinstance(checkpoint, dict) or "decm_config" not in checkpoint:
        raise ValueError(f"{file} was not written by decm: it carries no configuration.")
    check_targets(checkpoint["decm_config"], file)
    return checkpoint


def instead_of(file: Path) -> str:
    """What to say about the checkpoints beside a damaged one; nothing where there is none."""
    named = file.resolve()
    whole = newest_valid(file.parent, say=lambda line: None) if step_of(named) is not None else None
    return f" The newest one that is whole: pass {whole} instead." if whole is not None and whole != named else ""


def check_targets(config: Any, file: Path) -> None:
    """Raise ValueError unless all that a checkpoint's configuration would have called is decm's, torch's, or trusted.

    The environment variable DECM_TRUST names further packages, of networks and data of one's own.
    """
    trusted = [*TRUSTED, *(f"{name}." for name in os.environ.get("DECM_TRUST", "").split(",") if name)]
    if isinstance(config, dict):
        target = config.get("_target_")
        if target is not None and not str(target).startswith(tuple(trusted)):
            raise ValueError(
                f"{file} would call {target}, which is not of {', '.join(trusted)}. If the file and that package are "
                f"yours, set DECM_TRUST={str(target).split('.')[0]}."
            )
        for value in config.values():
            check_targets(value, file)
    elif isinstance(config, list):
        for value in config:
            check_targets(value, file)


def read_consolidated(file: Path) -> dict[str, Any]:
    """A file of `decm consolidate` as a checkpoint that holds its weights alone, as the averaged ones."""
    with safe_open(file, "pt") as stored:
        facts = stored.metadata() or {}
        weights = {f"{EMA}{key}": stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118, it is no mapping
    if "decm_config" not in facts:
        return {}
    config = json.loads(facts["decm_config"])
    return {"decm_config": config, "global_step": int(facts["global_step"]), "state_dict": weights}


def weights_of(checkpoint: dict[str, Any], prefix: str = EMA) -> dict[str, torch.Tensor]:
    """The averaged (or, with prefix `student.`, the raw) weights of a checkpoint, under the network's own names."""
    state = checkpoint["state_dict"]
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def load_strictly(network: nn.Module, weights: dict[str, torch.Tensor], source: str, new: tuple[str, ...] = ()) -> None:
    """Load weights by name and shape; names beginning with one of `new` may be missing. Raises ValueError otherwise."""
    own = network.state_dict()
    missing = [key for key in own if key not in weights and not (new and key.startswith(new))]
    wrong = [
        f"{key} is {tuple(value.shape)}, expected {tuple(own[key].shape) if key in own else 'no such weight'}"
        for key, value in weights.items()
        if key not in own or own[key].shape != value.shape
    ] + [f"{key} is missing" for key in missing]
    if wrong:
        more = f" (and {len(wrong) - 10} more)" if len(wrong) > 10 else ""
        raise ValueError(
            f"{source} does not fit the network: {'; '.join(wrong[:10])}{more}. "
            "Set `network` to the one that these weights were trained with."
        )
    network.load_state_dict(weights, strict=not new)
