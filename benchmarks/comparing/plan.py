"""What is compared, from a YAML plan, and the jobs that follow from it."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from decm.experiment.budget import apply_budget
from decm.experiment.checks import check_settings
from decm.runs.folders import comparable_settings
from decm.settings.composition import compose, plain

EVALUATIONS = (
    "nfe",
    "num_samples",
    "seed",
    "protocol",
)  # of an evaluation, what a tuning depends on besides its training


@dataclass
class Tuning:
    seed: int = 3  # of the training; not among the compared ones
    share_of_budget: float = 0.5
    overrides: list[str] = field(default_factory=list)


@dataclass
class Method:
    method: str
    title: str = ""
    overrides: list[str] = field(default_factory=list)  # of every run of the method
    candidates: list[list[str]] = field(default_factory=lambda: [[]])  # of which one is chosen


@dataclass
class Plan:
    experiment: str
    budget: float
    out: str  # the name of the files in docs/results
    methods: dict[str, Method]
    reference: str = "decm"  # the method that the others are compared with
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    evaluations: int = 6  # in the loop of a run, for the curves against the cost
    overrides: list[str] = field(default_factory=list)  # of every job
    tuning: Tuning = field(default_factory=Tuning)


@dataclass(frozen=True)
class Job:
    """One `decm train` in a folder of its own, which its settings name: other settings, another folder."""

    method: str
    seed: int
    overrides: tuple[str, ...]
    folder: Path
    candidate: int
    steps: int


def read_plan(path: Path) -> Plan:
    """The plan of a YAML file. Raises ValueError for an unknown key, a wrong type or unequal tuning."""
    try:
        plan = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Plan), OmegaConf.load(path)))
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from error
    assert isinstance(plan, Plan)
    counts = {name: len(method.candidates) for name, method in plan.methods.items()}
    if len(set(counts.values())) != 1 or not min(counts.values()):
        raise ValueError(f"{path}: expected as many candidates for each method (at least one); found {counts}.")
    if plan.tuning.seed in plan.seeds:
        raise ValueError(f"{path}: tuning.seed={plan.tuning.seed} is one of the compared seeds {plan.seeds}.")
    if not 0 < plan.tuning.share_of_budget <= 1:
        raise ValueError(f"{path}: tuning.share_of_budget={plan.tuning.share_of_budget}; expected above 0, to 1.")
    return plan


def settings(overrides: list[str]) -> DictConfig:
    """The configuration of a job, checked, with the steps of its budget."""
    cfg = compose("train", overrides)
    check_settings(cfg)
    apply_budget(cfg, say=False)
    return cfg


def tune_jobs(plan: Plan, name: str, folder: Path, extra: list[str]) -> list[Job]:
    """One job for each candidate of a method, at the reduced budget, with the tuning seed."""
    budget = plan.budget * plan.tuning.share_of_budget
    quiet = ["evaluation.every=0", "evaluation.preview_every=0", *plan.tuning.overrides]
    return [
        _job(plan, (name, plan.tuning.seed, k), budget, folder, [*quiet, *extra])
        for k in range(len(plan.methods[name].candidates))
    ]


def run_jobs(plan: Plan, name: str, candidate: int, folder: Path, extra: list[str]) -> list[Job]:
    """One job for each seed of a method with its chosen candidate, at the whole budget."""
    first = _job(plan, (name, plan.seeds[0], candidate), plan.budget, folder, extra)
    every = max(1, first.steps // plan.evaluations)
    loop = [f"evaluation.every={every}", f"evaluation.preview_every={every}"]
    return [_job(plan, (name, seed, candidate), plan.budget, folder, [*loop, *extra]) for seed in plan.seeds]


def _job(plan: Plan, which: tuple[str, int, int], budget: float, folder: Path, more: list[str]) -> Job:
    name, seed, candidate = which
    method = plan.methods[name]
    overrides = [
        f"experiment={plan.experiment}",
        f"method={method.method}",
        *plan.overrides,
        *method.overrides,
        *method.candidates[candidate],
        f"seed={seed}",
        f"budget={budget}",
        *more,
    ]
    try:
        cfg = settings(overrides)
    except Exception as error:
        raise ValueError(f"{name}, candidate {candidate}: {error}") from error
    facts = identity(plain(cfg), tuned=seed == plan.tuning.seed)
    own = _folder(folder, f"{name}-{seed}-{candidate}", facts)
    return Job(name, seed, tuple(overrides), own, candidate, cfg.max_steps)


def identity(found: dict[str, Any], tuned: bool) -> dict[str, Any]:
    """What a job does, of its settings. The samplers of a tuning are left out: it is what they are chosen on."""
    facts = comparable_settings(found)
    if tuned:
        facts["evaluation"] = {key: facts["evaluation"][key] for key in EVALUATIONS}
    return facts


def _folder(root: Path, start: str, facts: dict[str, Any]) -> Path:
    """The folder of these settings: the one that has them, but for settings that were added since, or a new one."""
    tuned = set(facts["evaluation"]) == set(EVALUATIONS)
    for path in sorted(root.glob(f"{start}-*/config.yaml")):
        config = identity(yaml.safe_load(path.read_text(encoding="utf-8")), tuned)
        if config["method"] == facts["method"] and _agree(config, facts):
            return path.parent
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
    return root / f"{start}-{key}"


def _agree(older: dict[str, Any], facts: dict[str, Any]) -> bool:
    """Whether two configurations say the same, where both say something."""
    return all(
        _agree(value, facts[key]) if isinstance(value, dict) and isinstance(facts[key], dict) else value == facts[key]
        for key, value in older.items()
        if key in facts
    )
