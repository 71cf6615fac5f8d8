"""Averages of power-law profiles, saved now and then, and any other average reconstructed from them (EDM2)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from decm.checkpoints.durable import write_whole
from decm.training.callbacks.base import DistillationCallback
from decm.training.callbacks.method.ema import ema_decay, power_law_exponent
from decm.training.module import DistillationModule
from decm.training.sharding import full, local

FOLDER = "snapshots"
WIDEST = 0.28  # of a power-law profile: 1 / sqrt(12), a constant one, is not reached
DTYPES = {"float16": torch.float16, "float32": torch.float32}


def check_width(sigma_rel: float, name: str) -> None:
    """Raise ValueError unless a power-law profile can have this relative width."""
    if not 0 < sigma_rel < WIDEST:
        raise ValueError(f"{name}={sigma_rel}; expected a relative width above 0 and below {WIDEST}.")


class EMASnapshots(DistillationCallback):
    """Keeps an average of the student for each of `sigma_rels`; every `every` optimizer steps writes them to `folder`.

    A file is `step_<n>_sigma_<width>.safetensors`, of the student's parameters by name. The averages travel in the
    checkpoint, in float32. Raises ValueError for bad settings.
    """

    def __init__(
        self, folder: Path, every: int, sigma_rels: Sequence[float] = (0.05, 0.1), dtype: str = "float16"
    ) -> None:
        if every < 1 or dtype not in DTYPES or len(set(sigma_rels)) < 2:
            raise ValueError(
                f"snapshots: every={every}, sigma_rels={list(sigma_rels)}, dtype={dtype!r}; expected every >= 1, two "
                f"different widths or more, and {' or '.join(DTYPES)}."
            )
        for width in sigma_rels:
            check_width(width, "snapshots.sigma_rels")
        self.folder, self.every, self.sigma_rels, self.dtype = folder, every, list(sigma_rels), DTYPES[dtype]
        self.step = 0
        self.averages: dict[float, dict[str, Tensor]] = {}

    @torch.no_grad()
    def on_optimizer_step(self, trainer: Trainer, module: DistillationModule) -> None:
        self.step = trainer.global_step
        current = dict(module.student.named_parameters())
        for width in [] if module.step.skipped else self.sigma_rels:
            if width not in self.averages:
                self.averages[width] = {key: p.detach().float().clone() for key, p in current.items()}
            average = self.averages[width]
            held = {key: value.to(current[key].device) for key, value in average.items()}  # a resume loads on the CPU
            beta = ema_decay(self.step, "power", 0.0, width)
            newest = [local(current[key]).float() for key in held]
            torch._foreach_lerp_([local(value) for value in held.values()], newest, 1 - beta)
            self.averages[width] = held
        if self.step % self.every == 0:
            self.save(trainer.is_global_zero)

    def save(self, writes: bool = True) -> None:
        """Write the averages as they are now; all ranks call it, since sharded ones are gathered, and one `writes`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for width, average in self.averages.items():
            path = self.folder / f"step_{self.step:08d}_sigma_{width:.4f}.safetensors"
            tensors = {key: full(value).to("cpu", self.dtype).contiguous() for key, value in average.items()}
            if writes:
                metadata = {"step": str(self.step), "sigma_rel": repr(float(width))}
                write_whole(path, partial(save_file, tensors, metadata=metadata))

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "averages": {repr(width): average for width, average in self.averages.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step = state_dict["step"]
        self.averages = {float(width): average for width, average in state_dict["averages"].items()}


@dataclass(frozen=True)
class Snapshot:
    """A file of averaged weights, and the profile that it was averaged with."""

    path: Path
    step: int
    sigma_rel: float


def find_snapshots(run_folder: Path) -> list[Snapshot]:
    """The snapshots of a run, by step. Raises ValueError if there are none, or one is damaged."""
    found = []
    for path in sorted((run_folder / FOLDER).glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
            found.append(Snapshot(path, int(metadata["step"]), float(metadata["sigma_rel"])))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no EMA snapshot, or it is damaged ({error}).") from error
    if not found:
        raise ValueError(
            f"{run_folder} has no EMA snapshots, from which an average could be reconstructed. Train with "
            "snapshots.every=<optimizer steps>."
        )
    return sorted(found, key=lambda snapshot: snapshot.step)


def inner_product(a: tuple[Any, Any], b: tuple[Any, Any]) -> Any:
    """Integral of p_a p_b, p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1) on [0, t]; a, b are (t, gamma).

    arXiv:2312.02696 App. C.3.
    """
    (t_a, gamma_a), (t_b, gamma_b) = a, b
    shorter, longer = np.minimum(t_a, t_b), np.maximum(t_a, t_b)
    exponent = np.where(t_a < t_b, gamma_b, gamma_a)  # of the longer profile
    return (
        (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * np.exp(exponent * np.log(shorter / longer)) / longer
    )


def shares(snapshots: Sequence[tuple[int, float]], sigma_rel: float, step: int) -> np.ndarray:
    """Coefficients of snapshots (step, sigma_rel), whose sum is nearest to the profile of `sigma_rel` ending at `step`.

    Least squares over the profiles, arXiv:2312.02696 Sec. 3.2.
    """
    t = np.array([float(at) for at, _ in snapshots])
    gamma = np.array([power_law_exponent(width) for _, width in snapshots])
    rows, wanted = (t[:, None], gamma[:, None]), (float(step), power_law_exponent(sigma_rel))
    gram, against = inner_product(rows, (t[None], gamma[None])), inner_product((t, gamma), wanted)
    scale = 1 / np.sqrt(np.diagonal(gram))  # late and narrow profiles have the larger norm
    solution, *_ = np.linalg.lstsq(gram * scale[:, None] * scale, against * scale, rcond=1e-12)
    return solution * scale


def reconstruct(snapshots: Sequence[Snapshot], sigma_rel: float, step: int | None = None) -> dict[str, Tensor]:
    """The average of relative width `sigma_rel` that ends at `step` (None: the last snapshot's), float32, by name.

    Raises ValueError for an impossible width, and for a step with no snapshot at or after it.
    """
    check_width(sigma_rel, "ema_sigma_rel")
    last = max(snapshot.step for snapshot in snapshots)
    step = last if step is None else step
    used = [snapshot for snapshot in snapshots if snapshot.step <= step]
    if not used or step > last:
        raise ValueError(f"step={step} is outside of the snapshots, which reach from {snapshots[0].step} to {last}.")
    factors = shares([(snapshot.step, snapshot.sigma_rel) for snapshot in used], sigma_rel, step)
    total: dict[str, Tensor] = {}
    for snapshot, factor in zip(used, factors.tolist(), strict=True):
        for name, value in _tensors(snapshot.path):
            term = value.double() * factor
            total[name] = total[name] + term if name in total else term
    return {name: value.float() for name, value in total.items()}


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118, it is no mapping
            yield name, file.get_tensor(name)
