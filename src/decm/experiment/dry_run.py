"""`decm train dry_run=true`: what a run would take, from its settings alone. Nothing is made, read or trained."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.utils import get_object
from omegaconf import DictConfig
from torch import Tensor, nn

from decm.experiment.build import build_network, build_trajectories, made
from decm.networks.regions import regions
from decm.objectives.base import Segment
from decm.settings.composition import conf_dir
from decm.training.callbacks.method.ema_snapshots import DTYPES
from decm.training.callbacks.method.trajectories import Trajectory
from decm.training.cost import FORWARD_BACKWARD, cost_with_derivative
from decm.training.module import no_teacher

FLOAT, ROWS, STEPS = 4, 512, 50  # bytes; rows and steps (spread over the run) that costs are counted on
H100 = 989e12 * 0.4  # floating-point operations a second: the dense bfloat16 peak, of which 40% is assumed
NETWORK_TEACHERS = ("auto", "checkpoint", "weights")
GB = 1e9
MEASURED = conf_dir().parent / "docs" / "results" / "step_gpu.json"


@dataclass
class CountingField:
    """A velocity of zeros that counts the rows that would go through a network: the guided ones twice."""

    scale: float
    low: float
    high: float
    rows: int = 0

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        guided = (t >= self.low) & (t <= self.high) if self.scale != 1 else torch.zeros(0)
        self.rows += len(t) + int(guided.sum())
        return torch.zeros_like(x)


@dataclass
class UnknownField(CountingField):
    """The field of a run without a teacher, known on the anchor's own path alone."""

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return no_teacher(x, t, y)


def needs_no_teacher(trajectory: Trajectory) -> None:
    """Raise ValueError for a segment that asks for a velocity which only a teacher knows."""
    t = (torch.arange(ROWS) + 0.5) / ROWS
    costs(trajectory, t, 0, True, UnknownField(1, 0, 1), (1, 1))


def costs(
    trajectory: Trajectory, t: Tensor, step: int, known: bool, field: CountingField, row_costs: tuple[int, int]
) -> tuple[int, int]:
    """Forwards of (teacher, student) for a segment at anchor times t [ROWS], without the teacher's call at the anchor.

    `known`: the velocity is known on the whole path. `row_costs`: of one row of the student, without and with tangents.
    """
    x, y = torch.zeros(ROWS, 1, 1, 1), torch.zeros(ROWS, dtype=torch.int64)
    start, end = trajectory.ends(t, torch.arange(ROWS), step, 0)
    v = torch.zeros_like(x) if known or start is t else None
    looked = CountingField(1, 0, 1)

    def student(x: Tensor, t: Tensor, s: Tensor, y: Tensor) -> Tensor:
        return looked(x, t, y)

    segment = Segment(
        x=x, start=start, end=end, y=y, progress=trajectory.progress(step), v=v, student=student, average=student
    )
    before = field.rows
    rows = trajectory.objective.ask(segment, field)
    trajectory.objective.aim(segment, x, None if rows.tangents is None else x, field)
    return field.rows - before, ROWS * row_costs[rows.tangents is not None] + looked.rows


def forward_equivalents(cfg: DictConfig, student: nn.Module) -> float:
    """Forwards of student and teacher in a whole run, in expectation over its times; results.json counts them."""
    g, share = cfg.teacher.guidance, float(cfg.teacher.kind in NETWORK_TEACHERS)
    field = CountingField(g.scale, g.low, g.high)
    t = (torch.arange(ROWS) + 0.5) / ROWS
    t = made(cfg.times)(t) if cfg.times else t
    field(t, t, t)
    total = cfg.max_steps * cfg.batch_size * field.rows * share / ROWS
    again = cfg.trainer.activation_checkpointing
    row_costs = (FORWARD_BACKWARD + again, cost_with_derivative(cfg.jvp, student) + again)
    for trajectory in build_trajectories(cfg):
        at = [cfg.max_steps * k // STEPS for k in range(STEPS)]
        counted = [costs(trajectory, t, step, cfg.teacher.kind == "none", field, row_costs) for step in at]
        per_row = sum(share * teacher + own for teacher, own in counted) / STEPS / ROWS
        rows = -(-cfg.max_steps // trajectory.every) * max(1, round(cfg.batch_size * trajectory.fraction))
        total += rows * per_row
    return total


def operations(cfg: DictConfig, student: nn.Module) -> float:
    """Floating-point operations of a whole run, at most: two a parameter, a token and a forward-equivalent."""
    patch = getattr(student, "patch_size", None) or 1
    _, H, W = student.shape  # type: ignore[misc]
    tokens = (H // patch) * (W // patch) if regions(student) else 1
    return 2 * sum(p.numel() for p in student.parameters()) * tokens * forward_equivalents(cfg, student)


def training_cost(cfg: DictConfig) -> float:
    """About the same, for a run's progress, without building its network; also for objectives that take no zeros."""
    try:
        return forward_equivalents(cfg, get_object(cfg.network._target_))
    except Exception:  # of somebody's own objective: a run must not fail for its progress
        return 10.0 * cfg.max_steps * cfg.batch_size


def teacher_rows(cfg: DictConfig) -> int:
    """Rows that one row of the teacher takes: two where it is a guided network."""
    if cfg.teacher.kind in NETWORK_TEACHERS:
        return 1 + (cfg.teacher.guidance.scale != 1)
    return int(cfg.teacher.kind != "none")


def evaluation_rows(cfg: DictConfig) -> float:
    """Rows of student and teacher in the evaluation at the end of a run."""
    e = cfg.evaluation
    return float(e.num_samples * sum(e.nfe) * (cfg.distill + teacher_rows(cfg)))


def rate_of_gpu(path: Path = MEASURED) -> tuple[float, str]:
    """(operations a second, where they come from): of this GPU if `make bench-gpu` measured one, else assumed."""
    assumed = H100, "an estimate that assumes 40% of an H100's dense bfloat16 peak, not a measurement"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rate, machine = float(found["operations_per_second"]), str(found["machine"])
    except (OSError, ValueError, KeyError, TypeError):
        return assumed
    if not torch.cuda.is_available() or torch.cuda.get_device_name() not in machine or not rate > 0:
        return assumed
    return (
        rate,
        f"at the {rate:.3g} operations a second that were measured on {machine} ({found.get('date', 'undated')})",
    )


def describe(cfg: DictConfig) -> list[str]:
    """Lines about parameters, memory, disk, steps and cost of a run."""
    with torch.device("meta"):
        student = build_network(cfg.network, 0)
        teacher = build_network(cfg.network, 0, two_times=False) if cfg.teacher.kind in NETWORK_TEACHERS else None
    count = sum(p.numel() for p in student.parameters())
    frozen = sum(p.numel() for p in teacher.parameters()) if teacher is not None else 0
    profiles = len(cfg.snapshots.sigma_rels) if cfg.snapshots.every else 0
    per_device = {
        "student": count,
        "gradients": count,
        "optimizer (two moments)": 2 * count,
        "EMA": count,
        "EMA profiles": profiles * count,
        "teacher": frozen,
    }
    checkpoint = FLOAT * count * (4 + profiles)  # student, EMA, two moments, profiles; not the teacher
    files = cfg.max_steps // cfg.snapshots.every * profiles if profiles else 0
    snapshots = files * count * DTYPES[cfg.snapshots.dtype].itemsize
    C, H, W = student.shape  # type: ignore[misc]
    cost = forward_equivalents(cfg, student)
    lines = [
        f"{cfg.name}: dry run, nothing is made or trained.",
        f"  parameters     {count:,} (student), {frozen:,} (teacher)",
        f"  memory         {sum(per_device.values()) * FLOAT / GB:.3g} GB a device in float32, without activations: "
        + ", ".join(f"{name} {size * FLOAT / GB:.3g}" for name, size in per_device.items() if size),
        f"  checkpoint     {checkpoint / GB:.3g} GB ({cfg.trainer.keep} are kept, the best besides, and one more "
        "while it is written)",
        f"  EMA snapshots  {files} files, {snapshots / GB:.3g} GB in all",
        f"  steps          {cfg.max_steps:,} of {cfg.batch_size:,} samples, {cfg.max_steps * cfg.batch_size:,} in all "
        f"(states {C}x{H}x{W}, {cfg.accumulate} micro-batches a step)",
        f"  cost           {cost:.4g} forward-equivalents, {cost / cfg.max_steps / cfg.batch_size:.3g} a sample",
    ]
    if regions(student):
        needed = operations(cfg, student)
        rate, whose = rate_of_gpu()
        days = needed / rate / 86400
        lines.append(
            f"  time           at most {needed:.3g} floating-point operations; {days:.3g} days of one GPU or "
            f"{days / 8:.3g} of eight, {whose}"
        )
    if cfg.teacher.kind == "auto":
        lines.append(
            f"  teacher        trained first if there is none: experiment={cfg.teacher.experiment}, not counted"
        )
    return lines
