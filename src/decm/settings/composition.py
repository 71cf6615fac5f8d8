"""Where the configuration lives, and how to compose, compare and hash one."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from decm.checkpoints.trust import RENAMED
from decm.runs.contents import CONTENTS, by_content, contents
from decm.settings.constructors import add_types
from decm.settings.quoting import escape_interpolation


def conf_dir() -> Path:
    """conf/ of the checkout, else the copy that the wheel carries."""
    here = Path(__file__).resolve()
    for candidate in (here.parents[3] / "conf", here.parents[1] / "conf"):
        if (candidate / "train.yaml").is_file():
            return candidate
    raise FileNotFoundError("decm's conf/ is missing from this installation. Install the package again.")


def compose(verb: str = "train", overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration of a verb, also from within a Hydra job."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    from decm.settings.schema import register

    register()
    if GlobalHydra.instance().is_initialized():
        cfg = hydra.compose(verb, list(overrides))
    else:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = hydra.compose(verb, list(overrides))
    add_types(cfg)
    return cfg


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration, resolved, as plain containers; of the shared numbers `method` has those that it takes."""
    container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items() if key != "segments"}


def add_contents(cfg: DictConfig) -> None:
    """Put the `contents` of a configuration into it, so that its run folder, checkpoints and teacher's hash have it."""
    with open_dict(cfg):
        cfg[CONTENTS] = contents(plain(cfg))


def from_plain(settings: Any) -> Any:
    """The configuration of plain containers, in whose texts `${` is no interpolation: `plain` has resolved them.

    Constructors that have another name by now get it.
    """

    def literal(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: literal(one) for key, one in value.items()}
        if isinstance(value, list):
            return [literal(one) for one in value]
        return escape_interpolation(RENAMED.get(value, value)) if isinstance(value, str) else value

    return OmegaConf.create(literal(settings))


# What a flow-matching teacher depends on: the same hash, the same teacher.
TEACHER_KEYS = (
    "data",
    "network",
    "method",
    "optimizer",
    "schedule",
    "ema",
    "max_steps",
    "batch_size",
    "seed",
    "label_drop",
    "times",
)


def teacher_hash(settings: dict[str, Any]) -> str:
    """A hash over (data, network, training settings) of a teacher's plain configuration; lacking some, it differs.

    Data and weights enter by their contents, not by the paths where they lie.
    """
    settings = by_content(settings)
    decisive = {key: settings.get(key) for key in TEACHER_KEYS}
    if isinstance(decisive["network"], dict):
        decisive["network"] = {**decisive["network"], "two_times": False}
    if settings.get("warm_start"):  # a teacher that was, is not the one that `teacher=auto` would train
        decisive["warm_start"] = settings["warm_start"]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
