"""The command of a run whose own was not written down, from its settings."""

import re
import shlex
from typing import Any

from decm.runs.run import Run, flat, shown

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")  # a text that Hydra takes for itself, unless it is one of WORDS
WORDS = ("null", "true", "false", "nan", "inf")


def quote(text: str) -> str:
    """A text in the quotes of Hydra's grammar: a backslash before each quote in it, those that are there doubled."""
    return "'{}'".format(re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text))


def escape_interpolation(text: str) -> str:
    """A text in which OmegaConf sees no interpolation; it removes the backslashes that are added here."""
    return re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + "\\${", text)


def rebuilt_command(run: Run) -> str:
    """A command that starts such a run, from what its settings have otherwise than their experiment; "" if unknown.

    Unknown are segments and numbers of segments that the experiment does not have, and settings that one of the two
    alone has, as after a change of network.
    """
    if not run.defaults:
        return ""
    wanted, usual = (config.get("objective") or {} for config in (run.config, run.defaults))
    if set(wanted) - set(usual):
        return ""
    words = [f"~objective.{name}" for name in sorted(set(usual) - set(wanted))]
    own, theirs = flat(run.config), flat(run.defaults)
    for key, *_ in run.changes():
        path, _, last = key.rpartition(".")
        value = _value(own[key]) if key in own else None
        if key == "objective":
            continue
        if key.startswith("objective."):
            return ""
        if value is not None and (last.isdigit() or key in theirs):
            words.append(f"{path}={{{last}:{value}}}" if last.isdigit() else f"{key}={value}")
        elif theirs.get(key, "") not in ({}, None) or not any(other.startswith(f"{key}.") for other in own):
            return ""
    return shlex.join(["decm", "train", f"experiment={run.name}", *words])


def _value(value: Any) -> str | None:
    """A setting as Hydra reads it back; None for what has no such form here."""
    if isinstance(value, str):
        plain = PLAIN.fullmatch(value) and value.lower() not in WORDS
        return value if plain else quote(escape_interpolation(value))
    if isinstance(value, list):
        parts = [_value(part) for part in value]
        return None if None in parts else f"[{','.join(map(str, parts))}]"
    return "{}" if value == {} else None if isinstance(value, dict) else shown(value)
