"""Types of the settings of verbs that look after runs; see schema.py."""

from dataclasses import dataclass

from omegaconf import MISSING

from decm.settings.schema_paths import PathText


@dataclass
class Report:
    path: PathText | None = None
    runs: list[PathText] | None = None
    out: PathText | None = None
    nfe: int | None = None
    debug: bool = MISSING


@dataclass
class Runs:
    runs: PathText = MISSING
    name: PathText | None = None
    debug: bool = MISSING


@dataclass
class Doctor:
    runs: PathText = MISSING
    name: str = MISSING
    debug: bool = MISSING


@dataclass
class Clean:
    runs: PathText = MISSING
    checkpoints: bool = MISSING
    wandb: bool = MISSING
    unsent: bool = MISSING
    dry_run: bool = MISSING
    yes: bool = MISSING
    debug: bool = MISSING
