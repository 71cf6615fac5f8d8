"""`decm doctor`: versions, devices, disk, W&B, and which files of an experiment are not there."""

import contextlib
import io
import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from omegaconf import DictConfig

from decm.runs.state import human
from decm.settings.composition import compose
from decm.settings.files import FILES, named_files

OPTIONAL = ("diffusers", "huggingface-hub", "wandb-workspaces", "triton")  # of extras, where they are used


def task(cfg: DictConfig) -> None:
    """Print what is there and what is not; nothing is changed. Of W&B's server it is asked whether it answers."""
    sections = {
        "versions": versions(),
        "devices": devices(),
        "disk": disk(Path(cfg.runs)),
        "W&B": wandb(),
        f"files of experiment={cfg.name}": files(cfg.name),
    }
    for title, lines in sections.items():
        print("\n".join([title, *(f"  {line}" for line in lines)]), flush=True)


def versions() -> Iterator[str]:
    """Python, decm, and what decm requires, with what is wrong about it."""
    from packaging.requirements import Requirement

    from decm.checkpoints.code_version import code_version

    yield f"{'python':<18} {platform.python_version()}"
    yield f"{'decm':<18} {code_version()}"
    needed = [Requirement(text) for text in requires("decm") or []]
    for need in [need for need in needed if need.marker is None]:
        found = installed(need.name)
        wrong = "" if found and need.specifier.contains(found, prereleases=True) else f"  expected {need.specifier}"
        yield f"{need.name:<18} {found or 'missing'}{wrong}"
    for name in OPTIONAL:
        yield f"{name:<18} {installed(name) or 'missing (optional)'}"


def installed(name: str) -> str | None:
    """The version of a package, None where it is missing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def devices() -> Iterator[str]:
    """Cores, GPUs and which device `auto` means."""
    import torch

    from decm.evaluation.devices import pick_device

    yield f"{os.cpu_count()} CPU cores"
    for k in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(k)
        yield f"cuda:{k}  {device.name}, {human(device.total_memory)}"
    yield f"auto means {pick_device('auto')}"


def disk(runs: Path) -> Iterator[str]:
    """Free space where runs are written, and whether they can be."""
    place = runs.absolute()
    while not place.exists():
        place = place.parent
    free = human(shutil.disk_usage(place).free)
    yield f"{runs}: {free} free" + ("" if os.access(place, os.W_OK) else f"; {place} CANNOT be written to")


def wandb() -> Iterator[str]:
    """What `logger=wandb` would do."""
    if installed("wandb") is None:
        yield "not installed: logger=csv runs without it"
        return
    from decm.training.wandb_mode import wandb_mode

    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            mode = wandb_mode(None)
    except ValueError as error:
        yield str(error)
        return
    yield f"mode {mode}"
    yield from printed.getvalue().splitlines()


def files(experiment: str) -> Iterator[str]:
    """Each file that the experiment names, and whether it is there."""
    cfg = compose("train", [f"experiment={experiment}"])
    named = named_files(cfg)
    for key, path in named.items():
        yield f"{'there  ' if path.exists() else 'MISSING'}  {key}={path} ({FILES[key]})"
    if not named:
        yield "it names none"
    elif all(path.exists() for path in named.values()):
        yield "all there"
