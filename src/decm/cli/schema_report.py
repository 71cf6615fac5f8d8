"""Types of the settings of `decm report`; see schema.py."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class Report:
    path: str = MISSING
    nfe: int | None = None
    debug: bool = MISSING
