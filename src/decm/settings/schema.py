"""Types of every setting, so that a wrong type or an unknown key fails at composition. Defaults live in conf/ alone."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from decm.settings.schema_checkpoints import Consolidate, Export, Sample
from decm.settings.schema_imagenet import Evaluate, Snapshots
from decm.settings.schema_latents import Images, Latents
from decm.settings.schema_machine import Expected, Faults, Guard, Logger, Trainer
from decm.settings.schema_paths import PathText
from decm.settings.schema_reference import Reference
from decm.settings.schema_verbs import Clean, Doctor, Report, Runs


@dataclass
class Guidance:
    scale: float = MISSING
    eta_rms: float | None = MISSING
    low: float = MISSING
    high: float = MISSING


@dataclass
class Teacher:
    kind: str = MISSING
    experiment: str | None = None
    path: PathText | None = None
    init_student: bool = MISSING
    guidance: Guidance = field(default_factory=Guidance)


@dataclass
class InstantaneousNumbers:
    cosine: float = MISSING


@dataclass
class ConsistencyNumbers:
    form: str = MISSING


@dataclass
class NoiseToNoisyNumbers:
    end: float = MISSING
    start: float = MISSING
    every: int = MISSING
    fraction: float = MISSING
    decay_steps: int = MISSING


@dataclass
class Segments:
    instantaneous: InstantaneousNumbers = field(default_factory=InstantaneousNumbers)
    consistency: ConsistencyNumbers = field(default_factory=ConsistencyNumbers)
    noise_to_noisy: NoiseToNoisyNumbers = field(default_factory=NoiseToNoisyNumbers)


@dataclass
class Ema:
    kind: str = MISSING
    decay: float = MISSING
    sigma_rel: float = MISSING


@dataclass
class Evaluation:
    protocol: Any = MISSING
    nfe: list[int] = MISSING
    num_samples: int = MISSING
    seed: int = MISSING
    batch_size: int = MISSING
    samplers: dict[int, str] | None = None
    every: int = MISSING
    every_num_samples: int = MISSING
    every_nfe: list[int] | None = None
    preview_every: int = MISSING


@dataclass
class Train:
    name: PathText = MISSING
    seed: int = MISSING
    distill: bool = MISSING
    max_steps: int = MISSING
    budget: float | None = None
    batch_size: int = MISSING
    accumulate: int = MISSING
    label_drop: float = MISSING
    times: Any = None
    jvp: str = MISSING
    fused: bool = MISSING
    self_check: bool = MISSING
    data: Any = MISSING
    network: Any = MISSING
    segments: Segments = field(default_factory=Segments)
    method: Any = MISSING
    teacher: Teacher = field(default_factory=Teacher)
    warm_start: PathText | None = None
    optimizer: Any = MISSING
    schedule: Any = MISSING
    ema: Ema = field(default_factory=Ema)
    snapshots: Snapshots = field(default_factory=Snapshots)
    trainer: Trainer = field(default_factory=Trainer)
    logger: Logger = field(default_factory=Logger)
    guard: Guard = field(default_factory=Guard)
    faults: Faults = field(default_factory=Faults)
    evaluation: Evaluation = field(default_factory=Evaluation)
    expected: Expected = field(default_factory=Expected)
    runs: PathText = MISSING
    report: bool = MISSING
    resume: PathText | None = None
    dry_run: bool = MISSING
    debug: bool = MISSING


VERBS: dict[str, type] = {
    "train": Train,
    "evaluate": Evaluate,
    "sample": Sample,
    "latents": Latents,
    "reference": Reference,
    "consolidate": Consolidate,
    "export": Export,
    "data": Images,
    "report": Report,
    "runs": Runs,
    "doctor": Doctor,
    "clean": Clean,
}


@cache
def register() -> None:
    """Put the schemas into Hydra's store; the YAML files of conf/ name them."""
    store = ConfigStore.instance()
    for verb, schema in VERBS.items():
        store.store(name=f"{verb}_schema", node=schema)
