"""Types of the settings of verbs that look after runs; see schema.py."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class Report:
    path: str | None = None
    runs: list[str] | None = None
    out: str | None = None
    debug: bool = MISSING
