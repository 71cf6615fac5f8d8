"""A sweep (`decm train -m`): its folder, how a second start finds it again, and its table at the end."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from decm.checkpoints.durable import write_text
from decm.runs.exits import JobError
from decm.runs.locks import lock, unlock
from decm.settings.composition import compose
from decm.settings.limits import check_name
from decm.settings.quoting import escape_interpolation, quote
from decm.settings.task import fail, in_plain_words, run_task
from decm.settings.words import inherited, typed_words
from decm.sweeps.table import HOW, OVERRIDES, SWEEP, planned_jobs, read_jobs, write_report

NOT_OURS = ("hydra_plugins.hydra_joblib_launcher.", "hydra_plugins.hydra_submitit_launcher.")
NUMBER = re.compile(r"=[-+.\d]+(e[-+]?\d+)?$")
UNJUDGED = ".unjudged"  # the protocol of evaluation=none
OPEN: dict[str, DictConfig] = {}  # the sweep that this process does


class Sweep(Callback):
    """Opens the folder of a sweep, and writes sweep.md when its last job is done.

    Hydra turns the exceptions of callbacks into warnings, except SystemExit; `run_task` therefore raises that
    for a user's mistake.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if not config.dry_run:
            run_task(begin, config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if not config.dry_run:
            failed = run_task(end, config)
            if failed is not None:
                fail(failed.message, failed.code)


def begin(config: DictConfig) -> None:
    """Find or make the sweep's folder, take it for this process, and write down which sweep it is."""
    check_launch(config)
    check_name(config.name)
    wanted: dict[str, Any] = {"overrides": identity(typed_words(config.hydra)), "jobs": count_jobs(config)}
    wanted["inherited"] = inherited(config.hydra)
    folder = to_continue(config, wanted) or Path(config.hydra.sweep.dir)
    check_values(config)
    _fix(config, folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock(folder)
    known = read_sweep(folder)
    if known is not None and not is_study(config):
        check_jobs(config, folder)
    elif known is not None and known["overrides"] != wanted["overrides"]:
        if any(folder.glob(f"*/{OVERRIDES}")):
            raise ValueError(
                f"{folder} is a study with other settings: found {' '.join(known['overrides'])}, expected "
                f"{' '.join(wanted['overrides'])}. Its trials do not compare; set hydra.sweep.dir=<another folder>."
            )
        for path in folder.glob("*.db"):  # no trial was begun
            path.unlink()
    write_text(folder / SWEEP, yaml.safe_dump(wanted, sort_keys=False))
    OPEN["config"] = config
    done = count_finished(folder)
    print(f"Sweep of {wanted['jobs']} jobs{f', {done} of them done,' if done else ''} in {folder}", flush=True)


def end(config: DictConfig, error: JobError | None = None) -> JobError | None:
    """Write and show the table. Returns the error that the sweep ends with, or None.

    It names the jobs that failed since this process opened the sweep; where none did, it is `error`.
    """
    OPEN.clear()
    folder = Path(config.hydra.sweep.dir)
    print(f"\n{write_report(folder)}", flush=True)
    jobs = [job for job in read_jobs(folder) if job.failure and job.failure["when"] >= _began(folder)]
    unlock(folder)
    if not jobs:
        return error
    said = "; ".join(f"job {job.number}: {job.failure['message']}" for job in jobs if job.failure)
    if error is not None and error.message not in said:
        said = f"{error.message}; {said}"
    code = error.code if error is not None else jobs[0].failure["code"]  # type: ignore[index]
    return JobError(f"{len(jobs)} of {planned_jobs(folder)} jobs failed. {said}", code)


def close(error: JobError) -> JobError:
    """End the open sweep, if there is one, after its sweeper has raised `error`. Returns the error it ends with."""
    return (end(OPEN["config"], error) or error) if OPEN else error


def _began(folder: Path) -> float:
    """When this process has opened the sweep."""
    return (folder / SWEEP).stat().st_mtime


def check_launch(config: DictConfig) -> None:
    """Raise ValueError where several processes would each run the sweep, or SLURM would not know how many it starts."""
    if "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        raise ValueError(
            "A sweep (-m) is started by one process, and torchrun or srun has started several. Start it without them; "
            "each job makes its own processes (trainer=ddp or fsdp), under SLURM with launcher=slurm."
        )
    if str(config.hydra.launcher._target_).startswith(NOT_OURS):
        raise ValueError(
            f"hydra/launcher: found {config.hydra.launcher._target_}, whose jobs are not all saved when the sweep is "
            "stopped; choose launcher=joblib, slurm or slurm_local."
        )
    devices = config.trainer.devices
    if str(config.hydra.launcher._target_).endswith("SlurmLauncher") and not str(devices).isdecimal():
        raise ValueError(
            f"launcher=slurm asks for trainer.devices GPUs and tasks on each of trainer.num_nodes nodes; found "
            f"trainer.devices={devices}, expected a number, e.g. trainer.devices=8."
        )


def identity(overrides: Iterable[str]) -> list[str]:
    """The overrides that make a sweep the same as another, in their order, which the jobs' numbers follow."""
    return [word for word in overrides if word.split("=", 1)[0] not in HOW]


def is_study(config: DictConfig) -> bool:
    """Whether the sweep is a study of Optuna's, and no grid."""
    return "n_trials" in config.hydra.sweeper


def count_jobs(config: DictConfig) -> int:
    """How many jobs a sweep has: of a grid the product of its values, of a study the total of its trials."""
    return int(config.hydra.sweeper.n_trials) if is_study(config) else len(grid(config))


def check_values(config: DictConfig) -> None:
    """Raise ValueError where a value of the sweep makes a configuration that cannot be composed, or has no judge.

    Each value is tried once, beside the first ones of the other settings; of numbers one stands for all.
    """
    tried = set[str]()
    for words in study(config) if is_study(config) else grid(config):
        kinds = {NUMBER.sub("=a number", word) for word in words}
        if kinds <= tried:
            continue
        try:
            evaluation = compose("train", words).evaluation
        except (HydraException, OmegaConfBaseException) as error:
            why = " ".join(in_plain_words(f"{error}\n{error.__cause__ or ''}").split())
            raise ValueError(f"A job of this sweep cannot be done ({' '.join(words)}): {why}") from error
        if str(evaluation.protocol._target_).endswith(UNJUDGED):
            raise ValueError(
                f"A sweep compares figures, and evaluation=none gives none ({' '.join(words)}). Choose another "
                "evaluation, such as evaluation=pictures."
            )
        tried |= kinds


def check_jobs(config: DictConfig, folder: Path) -> None:
    """Raise ValueError if a job that was begun in the sweep's folder has other overrides than it would have now."""
    for number, words in enumerate(grid(config)):
        path = folder / str(number) / OVERRIDES
        stored = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else words
        if identity(stored) != identity(words):
            has, wants = ([w for w in own if w not in other] for own, other in ((stored, words), (words, stored)))
            raise ValueError(
                f"{folder} is another sweep: its job {number} has {' '.join(has)}; expected {' '.join(wants)}. "
                "Set hydra.sweep.dir=<another folder>."
            )


def swept(config: DictConfig) -> list[str]:
    """The overrides of a sweep: those of its file, and the typed ones."""
    return [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()] + typed_words(config.hydra)


def grid(config: DictConfig) -> list[list[str]]:
    """The overrides of each job of a grid, in the order of their numbers."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    return [list(job) for job in BasicSweeper.split_arguments(parser.parse_overrides(swept(config)), None)[0]]


def study(config: DictConfig) -> list[list[str]]:
    """Overrides of as many jobs as show each choice of a study, and an end of each of its ranges."""
    from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides

    space, _ = create_params_from_overrides(swept(config))
    fixed = [word for word in swept(config) if word.split("=", 1)[0] not in space]
    values = {key: vars(drawn).get("choices") or [vars(drawn)["low"]] for key, drawn in space.items()}
    longest = max(map(len, values.values()), default=1)
    return [[*fixed, *(f"{key}={v[min(k, len(v) - 1)]}" for key, v in values.items())] for k in range(longest)]


def read_sweep(folder: Path) -> dict[str, Any] | None:
    """{overrides, jobs} of a sweep's folder, or None if it is none."""
    path = folder / SWEEP
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None


def count_finished(folder: Path) -> int:
    """The jobs that have results."""
    return len({path.parent for path in folder.glob("*/results*.json")})  # also of jobs that were trained longer since


def to_continue(config: DictConfig, wanted: dict[str, Any]) -> Path | None:
    """The sweep that `resume` means: the newest unfinished one with the same overrides, a folder by name, or none.

    A `hydra.sweep.dir` on the command line is the folder, whatever `resume` says.
    """
    if config.resume is None or any(word.startswith("hydra.sweep.dir=") for word in typed_words(config.hydra, "hydra")):
        return None
    if config.resume != "auto":
        folder = Path(config.resume)
        known = read_sweep(folder)
        if known is None or known["overrides"] != wanted["overrides"]:
            found = f"one of {' '.join(known['overrides'])}" if known else f"without {SWEEP}"
            raise ValueError(
                f"resume={folder} is {found}; expected the folder of a sweep of {' '.join(wanted['overrides'])}."
            )
        return folder
    beside, others = Path(config.hydra.sweep.dir).parent, list[str]()
    for folder in sorted(beside.iterdir() if beside.is_dir() else [], key=lambda path: path.name, reverse=True):
        known = read_sweep(folder)
        if known and known["overrides"] == wanted["overrides"] and count_finished(folder) < wanted["jobs"]:
            return folder
        if known and count_finished(folder) < known["jobs"]:
            others.append(f"{folder} is of {' '.join(known['overrides'])}")
    if others:
        print(f"resume=auto starts a new sweep: the unfinished {others[0]}, in this order.", flush=True)
    return None


def _fix(config: DictConfig, folder: Path) -> None:
    """Make `folder` the sweep's, for the sweeper and for each job, whose configuration is composed anew.

    What a job's own settings (`name`, `runs`, `experiment`) would make of it does not count.
    """
    with read_write(config), open_dict(config):
        config.hydra.sweep.dir = escape_interpolation(str(folder))
        others = [w for w in typed_words(config.hydra, "hydra") if not w.startswith("hydra.sweep.dir=")]
        config.hydra.overrides.hydra = [*others, f"hydra.sweep.dir={quote(escape_interpolation(str(folder)))}"]
