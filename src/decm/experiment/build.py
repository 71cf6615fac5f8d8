"""From a configuration to objects."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from decm.data.loader import Dataset
from decm.evaluation.evaluator import Evaluator
from decm.protocols.protocol import EvaluationProtocol
from decm.training.callbacks.method.trajectories import Trajectory


def made(node: Any, **more: Any) -> Any:
    """What a node of the configuration names; its arguments are Python's own containers, as a checkpoint holds them."""
    return instantiate(node, _convert_="all", **more)


def build_network(network: Any, seed: int, **overrides: Any) -> nn.Module:
    """The network of a config node, its weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return made(network, **overrides)


def build_optimizer(cfg: DictConfig) -> Any:
    """What makes the optimizer; AdamW as one operator for all parameters, unless the settings choose how it works.

    Not in mixed precision, where Lightning clips no gradients for such an operator.
    """
    chosen = {"fused", "foreach", "capturable", "differentiable"} & set(cfg.optimizer)
    whole = cfg.trainer.precision == "32-true" and cfg.optimizer._target_ == "torch.optim.AdamW"
    return made(cfg.optimizer, **({"fused": True} if whole and not chosen else {}))


def build_dataset(cfg: DictConfig) -> Dataset:
    """The data set; raises ValueError if the network does not fit its manifest."""
    dataset = made(cfg.data)
    network = build_network(cfg.network, 0) if cfg.network is not None else None
    dataset.manifest.check_fits(network.shape, network.num_classes)  # type: ignore[union-attr]
    return dataset


def build_trajectories(cfg: DictConfig) -> list[Trajectory]:
    """The trajectory callbacks of the method."""
    if not cfg.method:
        raise ValueError("`method` has no segment. Choose one of conf/method, or add a segment to it.")
    return [made(node) for node in cfg.method.values()]


def segment_names(cfg: DictConfig) -> list[str]:
    """What a model of this configuration is trained on: the names of its segments."""
    return [str(node.name) for node in cfg.method.values()]


def build_protocol(cfg: DictConfig, dataset: Dataset) -> EvaluationProtocol:
    """Judge, painter and exact maps for the data; the reference's name says where samples are of other classes."""
    protocol: EvaluationProtocol = made(cfg.evaluation.protocol, dataset=dataset, cache=Path(cfg.runs) / "cache")
    classes, num_samples = dataset.manifest.num_classes, cfg.evaluation.num_samples
    empty = classes - trained_classes(dataset) if classes else 0
    if empty:
        protocol.judge.reference += f"; samples are of all {classes} classes, and {empty} have no training picture"
    if num_samples < classes:
        protocol.judge.reference += f"; samples are of the first {num_samples} of {classes} classes alone"
    return replace(protocol, data=dataset.manifest.identity())


def trained_classes(dataset: Any) -> int:
    """How many classes have a training sample; all of them where a set does not store its labels."""
    labels = getattr(dataset, "train_y", None)
    if labels is None:
        labels = getattr(getattr(dataset, "records", None), "labels", range(dataset.manifest.num_classes))
    return torch.as_tensor(labels).unique().numel()


def build_evaluator(cfg: DictConfig, protocol: EvaluationProtocol, dataset: Dataset, device: str = "cpu") -> Evaluator:
    """The evaluator of a configuration."""
    e, manifest = cfg.evaluation, dataset.manifest
    samplers = {int(nfe): str(name) for nfe, name in (e.samplers or {}).items()}
    return Evaluator(
        judge=protocol.judge,
        shape=manifest.shape,
        num_classes=manifest.num_classes,
        seed=e.seed,
        batch_size=e.batch_size,
        samplers=samplers,
        device=device,
    )
