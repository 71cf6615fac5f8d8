"""From stored settings and weights to a network; and what such settings may call.

All that they name is decm's, an optimizer of torch's, or of a package that the user trusts. Called are networks, data
sets and protocols alone.
"""

from collections.abc import Iterator, Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import nn

from decm.checkpoints.trust import RENAMED, TRUSTED, trusted

PARTS = {
    "network": "network",
    "data": "data set",
    "evaluation": "protocol",
}  # what is built from a part of the settings
EXPECTED = {
    "network": "a class of decm.networks with forward(x, t, s, y)",
    "data": "a class of decm.data with batch(seed, index), or a function there that returns one",
    "evaluation": "a protocol of decm, as in conf/evaluation",
}


def targets(config: Any) -> Iterator[str]:
    """Each `_target_` in nested containers."""
    if isinstance(config, dict):
        if config.get("_target_") is not None:
            yield str(config["_target_"])
        for value in config.values():
            yield from targets(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from targets(value)


def check_targets(config: dict[str, Any], source: str | Path, parts: Sequence[str]) -> None:
    """Raise ValueError unless what a plain configuration would call is trusted, and is what it is called for.

    decm's own functions write and remove files, so that each of the `parts` that will be built may name what `is_part`
    accepts, or what is of one's own packages, and within its settings nothing but the latter.
    """
    allowed = tuple(trusted())
    for target in targets(config):  # all of them before the first is imported
        if not target.startswith(allowed):
            raise ValueError(_refusal(target, target, source))
    for part in parts:
        if isinstance(config.get(part), str):
            raise ValueError(f"{source}: {part} is {config[part]!r}; expected the settings of a {PARTS[part]}.")
        found = list(targets(config.get(part)))
        for target in found:
            if not is_part(part, locate(target, source)) and target.startswith(TRUSTED):
                raise ValueError(
                    f"{source}: {target} is no {PARTS[part]}; expected what `is_part` in {__name__} accepts."
                )
        if any(target.startswith(TRUSTED) for target in found[1:]):
            raise ValueError(f"{source}: the settings of {found[0]} are nested; expected plain values.")


def is_part(part: str, thing: Any) -> bool:
    """Whether a class or function is of decm, and what this part of the settings is called for.

    A network is a module of decm.networks with `forward(x, t, s, y, ...)`. A data set is a class of decm.data with
    `batch(seed, index)`, or a function there that returns one. A protocol is a function `(dataset, cache, ...)` that
    returns an EvaluationProtocol.
    """
    origin = f"{getattr(thing, '__module__', '')}."
    if part == "network":
        is_module = isinstance(thing, type) and issubclass(thing, nn.Module)
        return is_module and origin.startswith("decm.networks.") and _takes(thing.forward, "self", "x", "t", "s", "y")
    if part == "data":
        return origin.startswith("decm.data.") and _takes(getattr(_made(thing), "batch", None), "self", "seed", "index")
    is_protocol = origin.startswith("decm.") and _takes(thing, "dataset", "cache")
    return is_protocol and getattr(_made(thing), "__name__", "") == "EvaluationProtocol"


def _made(thing: Any) -> Any:
    """What calling a class or function gives, by its annotation; None where it has none."""
    try:
        return thing if isinstance(thing, type) else get_type_hints(thing).get("return")
    except NameError:  # a type that is imported for the type checker alone
        return None


def _takes(function: Any, *names: str) -> bool:
    """Whether the first arguments of a function have these names."""
    return callable(function) and tuple(signature(function).parameters)[: len(names)] == names


def locate(target: str, source: str | Path) -> Any:
    """The class or function that a stored configuration names. Raises ValueError unless it is there, and trusted."""
    target = RENAMED.get(target, target)
    allowed, parts = tuple(trusted()), target.split(".")
    if not target.startswith(allowed):
        raise ValueError(_refusal(target, target, source))
    try:
        thing: Any = import_module(parts[0])
        for k, part in enumerate(parts[1:], 2):
            thing = getattr(thing, part) if hasattr(thing, part) else import_module(".".join(parts[:k]))
    except ImportError as error:
        raise ValueError(
            f"{source} needs {target}, which this installation does not have ({error}). Use the decm that wrote it."
        ) from error
    origin = getattr(thing, "__module__", None) or getattr(thing, "__name__", "")
    if not (callable(thing) and f"{origin}.".startswith(allowed)):
        raise ValueError(_refusal(target, f"{origin}.{getattr(thing, '__name__', '')}", source))
    return thing


def call(settings: dict[str, Any], source: str | Path) -> Any:
    """What `_target_` of flat settings gives for the others. Raises ValueError for nested, missing or unknown ones."""
    arguments = {key: value for key, value in settings.items() if key != "_target_"}
    if any(True for _ in targets(arguments)):
        raise ValueError(f"{source}: the settings of {settings.get('_target_')} are nested; expected plain values.")
    if "_target_" not in settings:
        raise ValueError(f"{source}: found settings without `_target_`; expected the name of what they are for.")
    thing = locate(str(settings["_target_"]), source)
    try:
        return thing(**arguments)
    except TypeError as error:
        raise ValueError(f"{source}: {settings['_target_']} does not understand its settings ({error}).") from error


def build_network(settings: dict[str, Any], source: str | Path) -> nn.Module:
    """The network of stored settings, its weights not set yet. Raises ValueError for anything but a network."""
    if "_target_" in settings:
        kind = locate(str(settings["_target_"]), source)
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise ValueError(f"{source}: {settings['_target_']} is no network.")
    with torch.random.fork_rng(devices=[]):
        return call(settings, source)


def _refusal(target: str, origin: str, source: str | Path) -> str:
    what = target if origin == target else f"{target}, which is {origin}"
    return (
        f"{source} would call {what}; that is not of {', '.join(trusted())}. If the file and that package are yours, "
        f"set DECM_TRUST={origin.split('.')[0]}."
    )
