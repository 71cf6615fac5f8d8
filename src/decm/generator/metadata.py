"""What config.json must say of a generator, beside the network: checked before anything is made of it."""

from pathlib import Path
from typing import Any

from torch import nn

from decm.data.manifest import Manifest, manifest_of

ADVICE = "Export the model again."
WORDS = {int: "a whole number", str: "a text"}
JUDGED = {"metric": str, "reference": str, "num_samples": int}  # of results


def check_metadata(config: dict[str, Any], source: str | Path) -> None:
    """Raise ValueError, naming file and key, for what is missing or of another kind than `decm export` writes.

    The types of the parts themselves were checked before.
    """
    for key, kind in {"step": int, "weights": str, "code_version": str}.items():
        _expect(isinstance(config.get(key), kind), source, key, config.get(key), WORDS[kind])
    data, autoencoder = config["data"], config["autoencoder"]
    _expect(isinstance(data.get("extra"), dict), source, "data.extra", data.get("extra"), "a dict")
    try:
        manifest_of(data)
    except (ValueError, TypeError, KeyError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{source}: data is no manifest ({why}). {ADVICE}") from error
    names = config["trained_on"]
    _expect(all(isinstance(name, str) for name in names), source, "trained_on", names, "names of segments")
    path = (autoencoder or {}).get("path")
    _expect(path is None or isinstance(path, str), source, "autoencoder.path", path, "a file or null")
    _expect(not autoencoder or "kind" in autoencoder, source, "autoencoder", autoencoder, "its kind in it")
    check_results(config["results"], f"{source}: results")


def check_results(results: Any, source: str | Path) -> None:
    """Raise ValueError, naming file and key, for results that no table can be made of; None is none."""
    if results is None:
        return
    _expect(isinstance(results, dict), source, "all of it", results, "a dict")
    for who in ("student", "teacher", "samplers"):
        values = results.get(who)
        _expect(values is None or isinstance(values, dict), source, who, values, "a dict by number of steps")
        if who != "samplers":
            numbers = all(isinstance(value, int | float) for value in (values or {}).values())
            _expect(numbers, source, who, values, "numbers by number of steps")
    for key, kind in JUDGED.items() if results.get("student") else ():
        _expect(isinstance(results.get(key), kind), source, key, results.get(key), WORDS[kind])


def check_shape(manifest: Manifest, network: nn.Module, source: str) -> None:
    """Raise ValueError unless the network makes states of the data's shape and classes, where it says which."""
    for key in ("shape", "num_classes"):
        found, expected = getattr(manifest, key), getattr(network, key, getattr(manifest, key))
        _expect(found == expected, source, f"data.{key}", found, f"the network's {expected}")


def _expect(holds: bool, source: str | Path, key: str, found: Any, expected: str) -> None:
    if not holds:
        raise ValueError(f"{source}: {key} is {found!r}; expected {expected}. {ADVICE}")
