"""A generator's weights and metadata: read from a run, a checkpoint, an exported folder or the hub, and written.

An exported folder holds model.safetensors, config.json and README.md. Nothing that is read is executed, but the network
that config.json names.
"""

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from decm.checkpoints.checksums import file_digest
from decm.checkpoints.durable import publish, sync
from decm.checkpoints.names import LAST_OF_RUN
from decm.data.manifest import manifest_of
from decm.flow.solvers import name_and_switch
from decm.generator.card import card
from decm.generator.metadata import check_metadata, check_results
from decm.generator.networks import check_targets

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
SCHEMA = 1  # of config.json
EXPECTED = "a run folder, a .ckpt, a file of `decm consolidate`, a folder of `decm export`, or <org>/<name> of the hub"
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
KEYS: dict[str, type | tuple[type, ...]] = {
    "network": dict,
    "data": dict,
    "trained_on": list,
    "samplers": dict,
    "autoencoder": (dict, type(None)),
    "training": dict,
    "results": (dict, type(None)),
}
TRAINING = (
    "name",
    "seed",
    "max_steps",
    "batch_size",
    "label_drop",
    "method",
    "optimizer",
    "schedule",
    "ema",
    "teacher",
    "warm_start",
)
LATER = ("max_steps", "teacher", "warm_start")  # of these, what a run that goes on may have otherwise, or elsewhere


@dataclass(frozen=True)
class Stored:
    """The averaged weights of a generator by name, and its config.json as plain data."""

    weights: dict[str, Tensor]
    config: dict[str, Any]
    folder: Path  # where files that the configuration names may lie
    source: Path | None = None  # what was read, where it is not the folder
    run: dict[str, Any] | None = None  # the settings of the run, where it is one


def read_stored(path: str | Path, revision: str | None = None) -> Stored:
    """What a path or a hub's id means. Raises ValueError for anything but a model of decm."""
    place = Path(path)
    if not place.exists():
        if not HUB_ID.fullmatch(str(path)):
            raise ValueError(f"{str(path)!r} does not exist; expected {EXPECTED}.")
        place = from_hub(str(path), revision)
    elif revision is not None:
        raise ValueError(f"revision={revision!r} has no effect: {str(path)!r} is here, not on the hub.")
    return read_folder(place) if (place / CONFIG).is_file() else read_run(place)


def from_hub(name: str, revision: str | None) -> Path:
    """The local copy of a repository on the Hugging Face hub, its exported model alone."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ValueError(
            f"{name!r} is no path here, and the hub's needs huggingface-hub: install decm with its extra, `decm[hub]`."
        ) from error
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[WEIGHTS, CONFIG, CARD]))
    except (OSError, ValueError) as error:  # the hub's own errors are such
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{name!r} does not exist here, and the hub does not give it ({reason}).") from error


def read_folder(folder: Path) -> Stored:
    """What `write_folder` wrote. Raises ValueError for a damaged one, and for one of a later decm."""
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"it holds a {type(config).__name__}")
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({error}). Export the model again.") from error
    check_config(config, file)
    weights = folder / WEIGHTS
    if not weights.is_file() or file_digest(weights) != config["weights_sha256"]:
        found = "differs from what" if weights.is_file() else "is missing, which"
        raise ValueError(f"{weights} {found} {CONFIG} describes. Export or fetch the model again.")
    return Stored(load_file(weights), config, folder)


def check_config(config: dict[str, Any], source: Path) -> None:
    """Raise ValueError for a configuration that this decm does not read, or that would call what is not trusted."""
    version = config.get("schema_version")
    if not isinstance(version, int):
        raise ValueError(f"{source} is not decm's: it has no schema_version.")
    if version > SCHEMA:
        raise ValueError(
            f"{source} has schema version {version}; this decm reads up to {SCHEMA}. Use the decm that wrote it "
            f"({config.get('code_version', 'unknown')}) or a later one."
        )
    wrong = [key for key, kind in KEYS.items() if key not in config or not isinstance(config[key], kind)]
    if wrong or "weights_sha256" not in config:
        raise ValueError(f"{source} lacks {', '.join(wrong) or 'weights_sha256'}, or it has another type there.")
    for sampler in config["samplers"].values():
        try:
            name_and_switch(str(sampler))
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
    check_metadata(config, source)
    check_targets(config, source, parts=("network",))


def read_run(path: Path, parts: Sequence[str] = ("network",)) -> Stored:
    """The averaged weights of a run's checkpoint, or those of a consolidated file; metadata of both.

    `parts` of its settings are those that will be built; the data set is not needed, only what the file says of it.
    """
    if path.is_file() and path.suffix == ".safetensors":
        refuse_bare(path)
    from decm.generator.checkpoints import find_checkpoint, read_checkpoint, run_folder_of, weights_of

    file = find_checkpoint(path)
    checkpoint = read_checkpoint(file, parts)
    run, step = checkpoint["decm_config"], int(checkpoint["global_step"])
    scored = checkpoint.get("weights", "ema") == "ema"
    config = {
        "schema_version": SCHEMA,
        "code_version": checkpoint["code_version"],
        "step": step,
        "weights": checkpoint.get("weights", "ema"),
        "network": run["network"],
        "data": checkpoint["manifest"],
        "trained_on": [str(node["name"]) for node in run["method"].values()],
        "samplers": {str(nfe): str(name) for nfe, name in (run["evaluation"].get("samplers") or {}).items()},
        "autoencoder": run["evaluation"]["protocol"].get("autoencoder"),
        "training": without_paths({key: run[key] for key in TRAINING if key in run}),
        "results": results_of(run_folder_of(file), run, step) if scored else None,
    }
    return Stored(weights_of(checkpoint), config, Path(), path, run)


def results_of(folder: Path, run: dict[str, Any], step: int) -> dict[str, Any] | None:
    """The results of a run at a step, of its folder; None where it has none, and where the folder is of another run."""
    try:
        there = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        if any(there.get(key) != run.get(key) for key in (*TRAINING, "contents") if key not in LATER):
            return None
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return None
    file = folder / ("results.json" if there["max_steps"] == step else f"results_step{step}.json")
    return stored_results(file) if file.is_file() else None


def stored_results(file: Path) -> dict[str, Any]:
    """results.json of a run. Raises ValueError, by name, if it is damaged."""
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}). Remove it: the model is read without its figures.") from error
    check_results(results, file)
    return results


def refuse_bare(file: Path) -> None:
    """Raise ValueError, saying what to pass instead, for a safetensors file without a configuration."""
    try:
        with safe_open(file, "pt") as stored:
            bare = "decm_config" not in (stored.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is no safetensors file, or it is damaged ({error}).") from error
    if bare:
        beside = (file.parent / CONFIG).is_file()
        instead = f"pass its folder {file.parent}" if beside else f"expected {EXPECTED}"
        raise ValueError(f"{file} carries no configuration: {instead}.")


def without_paths(training: dict[str, Any]) -> dict[str, Any]:
    """Training settings without the folders of the machine: of a path its last name is kept."""

    def name(path: str | None) -> str | None:
        return Path(path).name if path else None

    teacher = {**training["teacher"], "path": name(training["teacher"].get("path"))}
    return {**training, "teacher": teacher, "warm_start": name(training.get("warm_start"))}


def write_folder(stored: Stored, folder: Path, overwrite: bool = False) -> None:
    """Write weights, configuration and card, whole or not at all. Raises ValueError if a model or a file is there."""
    folder = folder.absolute()  # "." has no name
    file = next((path for path in (folder, *folder.parents) if path.is_file()), None)
    if file is not None:
        raise ValueError(f"{file} is a file; expected a folder, to be made. Choose another one.")
    if (folder / LAST_OF_RUN.parent).is_dir():
        raise ValueError(f"{folder} is a run folder; expected a folder of the model's own. Choose another one.")
    there = [name for name in (WEIGHTS, CONFIG, CARD) if (folder / name).exists()]
    if there and not overwrite:
        raise ValueError(f"{folder} holds {', '.join(there)} already. Choose another folder, or set overwrite=true.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    part.mkdir()
    try:
        save_file({key: value.contiguous() for key, value in stored.weights.items()}, part / WEIGHTS, {"format": "pt"})
        autoencoder = stored.config["autoencoder"]
        if autoencoder and autoencoder.get("path"):  # looked for beside the model
            autoencoder = {**autoencoder, "path": Path(autoencoder["path"]).name}
        config = {**stored.config, "autoencoder": autoencoder, "weights_sha256": file_digest(part / WEIGHTS)}
        manifest_of(config["data"])
        (part / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (part / CARD).write_text(card(config), encoding="utf-8")
        shutil.copymode(part / CARD, part / WEIGHTS)  # safetensors makes its files for their owner alone
        folder.mkdir(exist_ok=True)
        for name in (WEIGHTS, CONFIG, CARD):
            sync(part / name)
            publish(part / name, folder / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
