"""Where the velocity comes from: a teacher trained on demand, a checkpoint, an exact flow, or the data alone."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.errors import MissingConfigException
from omegaconf import DictConfig
from torch import nn

from decm.checkpoints.first_process import announce_folder, inherited_folder, is_first
from decm.checkpoints.strict import load_strictly
from decm.data.loader import Dataset
from decm.data.manifest import Manifest
from decm.data.toy import MixturePoints
from decm.experiment.build import build_network
from decm.flow.flow_map import FlowMap
from decm.flow.velocity import GuidedVelocity
from decm.generator.checkpoints import EMA, read_checkpoint, weights_of
from decm.networks.dit import LightningDiT
from decm.networks.weights import load_weights
from decm.runs.folders import RESULTS, append_command, new_folder, read_config, run_folders, write_config
from decm.runs.locks import locked
from decm.settings.composition import add_contents, compose, from_plain, plain, teacher_hash
from decm.settings.limits import check_name
from decm.settings.words import job_command
from decm.training.module import Teacher

END_EMBEDDING = ("s_embedder.",)  # what a student has and its teacher does not
Fit = Callable[[DictConfig, Path], None]


@dataclass(frozen=True)
class TeacherBundle:
    """A teacher, the flow map to sample it with, the weights that the student starts from, and how it came about."""

    teacher: Teacher | None
    flow_map: FlowMap | None = None
    weights: dict[str, Any] | None = None
    path: str | None = None
    reused: bool = False
    seconds: float = 0.0

    def with_network(self, network: nn.Module | None) -> "TeacherBundle":
        """The same source, whose teacher's network is this one."""
        return replace(self, teacher=replace(self.teacher, network=network)) if self.teacher else self


def load_or_train_teacher(
    cfg: DictConfig, dataset: Dataset, fit: Fit, wanted: DictConfig | None = None
) -> TeacherBundle:
    """The source of velocity that `teacher.kind` names.

    For teacher=auto, `fit(wanted, folder)` trains one where there is none yet; `wanted` is its `teacher_config`.
    """
    kind = cfg.teacher.kind
    if kind == "none":
        return TeacherBundle(None)
    if kind == "exact":
        if not isinstance(dataset, MixturePoints):
            raise ValueError(f"teacher=exact needs a 2-D mixture; the flow of {dataset.manifest.name!r} is not known.")
        flow = dataset.exact_flow()
        return TeacherBundle(Teacher(flow.velocity), FlowMap(flow))
    if kind == "checkpoint":
        if not cfg.teacher.path:
            raise ValueError("teacher=checkpoint needs teacher.path=<a run folder or a checkpoint>.")
        return _from_checkpoint(cfg, str(cfg.teacher.path), dataset.manifest, reused=True, seconds=0.0)
    if kind == "weights":
        return _from_weights(cfg)
    if kind == "auto":
        began = time.perf_counter()
        folder, reused = _trained(wanted or teacher_config(cfg), fit)
        return _from_checkpoint(cfg, str(folder), dataset.manifest, reused, time.perf_counter() - began)
    raise ValueError(f"teacher.kind={kind!r} is unknown; expected auto, checkpoint, weights, exact or none.")


def _from_checkpoint(cfg: DictConfig, path: str, data: Manifest, reused: bool, seconds: float) -> TeacherBundle:
    checkpoint = read_checkpoint(path)
    stored = from_plain(checkpoint["decm_config"])
    network: nn.Module = build_network(stored.network, 0)
    weights = weights_of(checkpoint, EMA)
    load_strictly(network, weights, f"Teacher {path}")
    expected = build_network(cfg.network, 0)
    if (network.shape, network.num_classes) != (expected.shape, expected.num_classes):
        raise ValueError(
            f"Teacher {path} is for states {network.shape} and {network.num_classes} classes; this run has "
            f"{expected.shape} and {expected.num_classes}. Choose a teacher of the same data."
        )
    renamed = renamed_classes(checkpoint["manifest"], data)
    if renamed:
        raise ValueError(
            f"Teacher {path} was trained on other classes: {renamed}. Choose a teacher of these, or make the data set "
            "with class_names in the teacher's order."
        )
    other = other_data(checkpoint["manifest"], data)
    if other and is_first():
        print(f"Teacher {path} was trained on other data: {other}. It is used as it is.", flush=True)
    return _guided(cfg, network, weights, path, reused, seconds)


def other_data(stored: dict[str, Any], data: Manifest) -> str:
    """How the data of a stored model differ from these, "" where they are the same."""
    if stored.get("content_hash") == data.content_hash:
        return ""
    before, now = [(tuple(m[0]), tuple(m[1])) for m in ((stored["mean"], stored["std"]), (data.mean, data.std))]
    scale = f", normalized by mean, std {_short(before)} and not {_short(now)}" if before != now else ""
    return f"{stored['name']!r}{scale}"


def _short(numbers: tuple[tuple[float, ...], ...]) -> str:
    """The first three of each, to three digits."""
    shown = [[f"{n:.3g}" for n in part[:3]] + ["..."] * (len(part) > 3) for part in numbers]
    return ", ".join(f"[{', '.join(part)}]" for part in shown)


def renamed_classes(stored: dict[str, Any], data: Manifest) -> str:
    """Which labels mean another class in the data than in those of a stored model, by name; "" where none is known.

    Of the very same pictures and labels the names were corrected, and no class is another one.
    """
    if stored.get("content_hash") == data.content_hash:
        return ""
    before, now = stored.get("class_names") or (), data.class_names or ()
    differing = [(k, old, new) for k, (old, new) in enumerate(zip(before, now, strict=False)) if old != new]
    shown = "; ".join(f"label {k} was {old!r} and is {new!r}" for k, old, new in differing[:3])
    return f"{shown}{f' and {len(differing) - 3} more' if len(differing) > 3 else ''}"


def _from_weights(cfg: DictConfig) -> TeacherBundle:
    """A released file of LightningDiT's or FACM's names, read strictly into this run's network without an end time."""
    if not cfg.teacher.path:
        raise ValueError("teacher=weights needs teacher.path=<a .pt or .safetensors file of a released network>.")
    network = build_network(cfg.network, 0, two_times=False)
    if not isinstance(network, LightningDiT):
        raise ValueError("teacher=weights reads weights of a LightningDiT; choose network=lightningdit_...")
    print(f"Teacher: {load_weights(network, str(cfg.teacher.path))}", flush=True)
    return _guided(cfg, network, network.state_dict(), str(cfg.teacher.path), reused=True, seconds=0.0)


def guided_field(cfg: DictConfig, network: nn.Module) -> GuidedVelocity:
    """The velocity of a network, guided as `teacher.guidance` says. Raises ValueError for an invalid guidance."""
    g = cfg.teacher.guidance
    return GuidedVelocity(network, int(network.num_classes), g.scale, g.eta_rms, g.low, g.high)  # type: ignore[arg-type]


def _guided(
    cfg: DictConfig, network: nn.Module, weights: dict[str, Any], path: str, reused: bool, seconds: float
) -> TeacherBundle:
    """The source whose velocity is a network's, guided as `teacher.guidance` says."""
    network.eval().requires_grad_(False)
    field = guided_field(cfg, network)

    def guided(x: Any, t: Any, s: Any, y: Any) -> Any:
        return field(x, t, y)

    return TeacherBundle(Teacher(field, network), FlowMap(guided), weights, path, reused, seconds)


def initialize_student(student: nn.Module, source: TeacherBundle, cfg: DictConfig) -> None:
    """Start the student from the teacher's weights, so that F(x, t, s) = v(x, t), where `teacher.init_student`."""
    if source.weights is None or not cfg.teacher.init_student:
        return
    weights = {k: v for k, v in source.weights.items() if not k.startswith(END_EMBEDDING)}
    load_strictly(
        student,
        weights,
        f"Teacher {source.path} (teacher.init_student=true)",
        optional=lambda key: key.startswith(END_EMBEDDING),
    )


def teacher_config(cfg: DictConfig) -> DictConfig:
    """The configuration of the teacher's own run: `teacher.experiment` with this run's data, network and machine."""
    if not cfg.teacher.experiment:
        raise ValueError("teacher=auto needs teacher.experiment, the experiment that trains the teacher.")
    try:
        teacher = compose("train", [f"experiment={cfg.teacher.experiment}"])
    except MissingConfigException as error:
        raise ValueError(
            f"teacher.experiment={cfg.teacher.experiment} is not an experiment; expected the name of a file below "
            "conf/experiment, e.g. teacher_digits."
        ) from error
    check_name(teacher.name)
    for key in ("data", "network", "trainer", "logger", "runs", "debug"):
        teacher[key] = cfg[key]
    if cfg.trainer.activation_checkpointing:
        teacher.jvp = cfg.jvp  # which this needs
    teacher.network.two_times = False
    add_contents(teacher)
    return teacher


def matching_teachers(settings: dict[str, Any]) -> list[Path]:
    """The run folders of a teacher of these settings: the newest finished one alone, else all unfinished ones."""
    key, root = teacher_hash(settings), Path(settings["runs"])
    found = [f for f in run_folders(root, settings["name"]) if teacher_hash(read_config(f) or settings) == key]
    finished = [folder for folder in found if (folder / RESULTS).is_file()]
    return finished[:1] or found


def check_finished_teacher(teacher: DictConfig) -> None:
    """Raise ValueError where a finished teacher of this configuration is there, and its checkpoint cannot be read."""
    for folder in matching_teachers(plain(teacher)):
        try:
            if (folder / RESULTS).is_file():
                read_checkpoint(folder)
        except ValueError as error:
            raise ValueError(f"{error} It is this run's teacher: remove {folder} to have it trained anew.") from error


def _trained(wanted: DictConfig, fit: Fit) -> tuple[Path, bool]:
    """The folder of a finished teacher of the right hash, trained now (or its training continued) if there is none."""
    settings = plain(wanted)
    key, root = teacher_hash(settings), Path(wanted.runs)
    launched = inherited_folder("DECM_TEACHER_FOLDER", root)
    if launched is not None:  # the main process holds the lock and waits for this one in the fit
        if not (launched / RESULTS).is_file():
            fit(wanted, launched)
        return launched, False
    with _locked(root / settings["name"] / f".lock-{key}"):
        matching = matching_teachers(settings)
        folder = matching[0] if matching else new_folder(root, settings["name"])
        if (folder / RESULTS).is_file():
            announce_folder("DECM_TEACHER_FOLDER", folder, root)
            return folder, True
        with locked(folder):
            write_config(folder, settings)
            append_command(folder, job_command())  # of the run that it is trained for
            announce_folder("DECM_TEACHER_FOLDER", folder, root)
            print(f"Training the teacher first: {settings['name']} in {folder}", flush=True)
            fit(wanted, folder)
        return folder, False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file lock, so that of several runs only one trains the teacher and the others wait for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
