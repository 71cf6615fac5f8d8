"""Types of the settings that a constructor takes, derived from its signature: nobody writes them a second time."""

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field, is_dataclass, make_dataclass
from functools import cache
from typing import Any

from hydra.utils import get_object
from omegaconf import MISSING, DictConfig, OmegaConf, flag_override
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from decm.checkpoints.trust import trusted

TARGET = "_target_"
PLAIN = (bool, int, float, str)


def add_types(cfg: DictConfig) -> None:
    """Give every node that names a constructor (`_target_`) the types and defaults of its arguments, in place.

    Raises ValueError, by the setting's full name, for a value of another type and for an argument that there is not.
    """
    nodes = {path: OmegaConf.select(cfg, path) for path in _targets(cfg, "")}
    for path in sorted(nodes, key=lambda path: not nodes[path][TARGET].startswith("torch.")):  # the quickest first
        node = OmegaConf.select(cfg, path)
        if not node[TARGET].startswith(tuple(trusted())):
            continue  # nothing of it is imported; what would call it says so by name
        try:
            schema = settings_of(node[TARGET], tuple(map(str, node)))
            typed = OmegaConf.merge(OmegaConf.structured(schema), node)
        except OmegaConfBaseException as error:
            what, key = str(error).splitlines()[0], str(getattr(error, "full_key", "") or "")
            if isinstance(error, ConfigKeyError) and "." not in key:
                takes = ", ".join(arguments(get_object(node[TARGET])))
                what = f"{path}.{key} is not an argument of {node[TARGET]}, which takes {takes}; leave it out with "
                what += f"'~{path}.{key}'."
            raise ValueError(f"{what}\n    full_key: {path}.{key}") from error
        except (ImportError, AttributeError, ValueError):
            continue  # it cannot be imported: the same
        with flag_override(cfg, ["struct", "readonly"], False):
            OmegaConf.update(cfg, path, typed, merge=False)


def _targets(node: Any, path: str) -> Iterator[str]:
    """The paths of the nodes that name a constructor, the innermost first; what is interpolated is not followed."""
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
        return
    for name in (key for key in node if isinstance(key, str) and key != "hydra"):
        if not OmegaConf.is_interpolation(node, name) and not OmegaConf.is_missing(node, name):
            yield from _targets(node[name], f"{path}.{name}" if path else name)
    untyped = OmegaConf.get_type(node) is dict
    if path and untyped and TARGET in node and isinstance(node[TARGET], str):
        yield path


@cache
def settings_of(target: str, given: tuple[str, ...] = ()) -> type:
    """A dataclass of what the constructor or function `target` takes, with its defaults.

    Arguments that are objects come from the code; they, and what a partial function is called with later, are left out
    unless they are among the `given`; so are torch's own arguments, whose list depends on its version.
    Raises ImportError and the like for a target that is not there.
    """
    needed, fields = inspect.Parameter.empty, [(name, Any, MISSING) for name in given if name.startswith("_")]
    for name, (kind, default) in arguments(get_object(target)).items():
        left_out = kind is None or (default is needed and "_partial_" in given) or target.startswith("torch.")
        if name in given or not left_out:
            fields.append((name, Any if kind is None else kind, _field(MISSING if default is needed else default)))
    return make_dataclass(target.rpartition(".")[2], fields)


def _field(default: Any) -> Any:
    """A field of a dataclass with that default; a list is made anew for each."""
    return field(default_factory=lambda: list(default) if isinstance(default, tuple) else default)


def arguments(call: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """{name: (type of the setting, or None for an object, its default)}, those of base classes behind `**` too."""
    found = dict[str, tuple[Any, Any]]()
    for function in _inits(call):
        hints = typing.get_type_hints(function)
        parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
        for p in parameters:
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                found.setdefault(p.name, (setting_type(hints.get(p.name, Any)), p.default))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def _inits(call: Callable[..., Any]) -> list[Callable[..., Any]]:
    """The function itself, or the constructors of a class and its bases, in order."""
    if not isinstance(call, type):
        return [call]
    return [base.__dict__["__init__"] for base in call.__mro__ if "__init__" in base.__dict__ and base is not object]


def setting_type(hint: Any) -> Any:
    """The type of a setting for an argument's annotation; None for objects, which no setting can hold."""
    if hint in PLAIN or hint is Any:
        return hint
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = {setting_type(part) for part in parts if part is not types.NoneType} - {None}
        if len(kinds) != 1:
            return Any if kinds else None
        (kind,) = kinds
        optional = types.NoneType in parts and (kind in PLAIN or is_dataclass(kind))
        return kind | None if optional else kind
    if origin in (list, tuple, Sequence) and parts and (kind := setting_type(parts[0])) in PLAIN:
        return list[kind]  # type: ignore[valid-type]
    if typing.is_typeddict(hint):
        types_ = {name: setting_type(own) for name, own in typing.get_type_hints(hint).items()}
        return make_dataclass(hint.__name__, [(name, own, MISSING) for name, own in types_.items()])
    return Any if origin in (dict, Mapping) else None
