"""Types of the settings of verbs that look after runs; see schema.py."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class Report:
    path: str | None = None
    runs: list[str] | None = None
    out: str | None = None
    nfe: int | None = None
    debug: bool = MISSING


@dataclass
class Runs:
    runs: str = MISSING
    name: str | None = None
    debug: bool = MISSING


@dataclass
class Doctor:
    runs: str = MISSING
    name: str = MISSING
    debug: bool = MISSING


@dataclass
class Clean:
    runs: str = MISSING
    checkpoints: bool = MISSING
    wandb: bool = MISSING
    unsent: bool = MISSING
    dry_run: bool = MISSING
    yes: bool = MISSING
    debug: bool = MISSING
