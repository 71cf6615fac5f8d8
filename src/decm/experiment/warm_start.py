"""A student that starts from another one's averaged weights: warm_start=<run, checkpoint, exported folder, hub id>."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import nn

from decm.checkpoints.first_process import is_first
from decm.checkpoints.folder import candidates
from decm.checkpoints.names import CHECKPOINTS
from decm.checkpoints.strict import load_strictly
from decm.data.manifest import Manifest
from decm.experiment.build import build_network
from decm.experiment.teachers import other_data, renamed_classes
from decm.generator.files import Stored, read_stored
from decm.runs.folders import differences


def check_warm_start(cfg: DictConfig, folder: Path | None) -> None:
    """Raise ValueError for weights that do not fit, before a teacher is trained; a run that goes on needs none."""
    if cfg.warm_start is not None and not (folder and candidates(folder / CHECKPOINTS)):
        load(build_network(cfg.network, cfg.seed), cfg)


def warm_start(student: nn.Module, cfg: DictConfig, data: Manifest) -> None:
    """Load the weights that `warm_start` names, and print which they are, also where labels mean other classes now."""
    stored = load(student, cfg)
    if not is_first():
        return
    before, step = stored.config["data"], stored.config["step"]
    renamed, other = renamed_classes(before, data), other_data(before, data)
    classes = f" Its classes were others: {renamed}." if renamed else ""
    on = f"other data, {other}" if other else before["name"]
    print(f"The student starts from {cfg.warm_start}: step {step}, trained on {on}.{classes}", flush=True)


def load(student: nn.Module, cfg: DictConfig) -> Stored:
    """Load averaged weights strictly, end embedding included, into a student of the same settings.

    Raises ValueError where names, shapes or settings that have no weights (time_scale, num_heads) differ.
    """
    stored = read_stored(cfg.warm_start)
    before, own = stored.config["network"], OmegaConf.to_container(cfg.network, resolve=True)
    assert isinstance(own, dict)
    differing = differences(before, {key: own.get(key) for key in before}, "network.")
    if differing:
        raise ValueError(
            f"warm_start={cfg.warm_start} is of another network: {'; '.join(differing)}. Set `network` to the one that "
            "these weights were trained with."
        )
    load_strictly(student, stored.weights, f"warm_start={cfg.warm_start}")
    return stored
