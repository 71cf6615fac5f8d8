"""Texts in the grammars of Hydra and OmegaConf."""

import re


def quote(text: str) -> str:
    """A text in the quotes of Hydra's grammar: a backslash before each quote in it, those that are there doubled."""
    return "'{}'".format(re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text))


def escape_interpolation(text: str) -> str:
    """A text in which OmegaConf sees no interpolation; it removes the backslashes that are added here."""
    return re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + "\\${", text)
