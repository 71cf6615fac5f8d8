"""Which run is continued, and from where: its newest valid checkpoint, if it was written with the current teacher."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from decm.checkpoints.checksums import weights_digest
from decm.checkpoints.files import read_metadata
from decm.checkpoints.first_process import is_first
from decm.checkpoints.folder import newest_valid
from decm.experiment.build import made
from decm.experiment.teachers import TeacherBundle
from decm.runs.contents import kept_contents
from decm.runs.folders import CONFIG, other_settings, read_config, shortened, unfinished, unfinished_folders
from decm.settings.composition import CONTENTS, plain

JUDGED = ("evaluation", "report", "logger")  # what a run may have otherwise from one start to the next


def run_to_continue(cfg: DictConfig) -> Path | None:
    """The run folder that `resume` means; None for a new run. Differences beside the training are printed.

    The configuration takes over what the run knows of the contents of files that are no longer there. Raises ValueError
    for a folder without a run, or whose run was trained with other settings.
    """
    if cfg.resume is None:
        return None
    settings = plain(cfg)
    if cfg.resume == "auto":
        root = Path(cfg.runs)
        folder = unfinished(root, settings)
        if folder is None:
            newest = next(iter(unfinished_folders(root, cfg.name)), None)
            if newest is not None and is_first():
                why = differing(cfg, read_config(newest) or {})[0]
                print(f"resume=auto starts a new run: the unfinished {newest} has other settings: {shortened(why)}.")
            return None
    else:
        folder = Path(str(cfg.resume))
        check_same_training(cfg, folder)
    before = read_config(folder) or {}
    judged = other_settings(before, settings, lambda config: {key: config.get(key) for key in JUDGED})
    if judged and is_first():
        print(f"{folder} goes on with other settings beside the training: {shortened(judged)}.", flush=True)
    cfg[CONTENTS] = {**kept_contents(before, settings), **cfg[CONTENTS]}
    return folder


def check_same_training(cfg: DictConfig, folder: Path) -> None:
    """Raise ValueError unless a run folder's training can go on with these settings, to its end or for longer."""
    config = read_config(folder)
    if config is None:
        raise ValueError(f"resume={folder} is not a run folder with these settings: it has no {CONFIG}.")
    others, follow = differing(cfg, config)
    if not others:
        return
    steps, before = int(cfg.max_steps), config.get("max_steps")
    advice = f"Start a run of its own from its weights: warm_start={folder} without resume."
    if len(others) > 1 or not isinstance(before, int) or steps <= before:
        raise ValueError(f"resume={folder} is not a run folder with these settings: {shortened(others)}. {advice}")
    schedule = str(cfg.schedule._target_).rpartition(".")[2]
    if follow:
        names = ", ".join(map(key_of, follow))
        raise ValueError(
            f"resume={folder} cannot go on from max_steps={before} to {steps}: its steps were trained with other "
            f"values of {names}, which follow max_steps (schedule={schedule}). {advice}"
        )
    rate = made(cfg.schedule)
    if rate(before) == rate(steps - 1) == 0:
        raise ValueError(
            f"resume={folder} cannot go on from max_steps={before} to {steps}, since the learning rate of "
            f"schedule={schedule} is 0 from step {before} on. {advice}"
        )


def differing(cfg: DictConfig, config: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(settings of the training that differ from a run's, those that do so only because they follow max_steps)."""
    every, before = other_settings(config, plain(cfg)), config.get("max_steps")
    if not isinstance(before, int) or before == cfg.max_steps:
        return every, []
    shorter = cfg.copy()
    shorter.max_steps = before
    own = {key_of(line) for line in other_settings(config, plain(shorter))}  # whose values may follow max_steps, too
    first = f"max_steps is {cfg.max_steps}, was {before}"
    rest = [line for line in every if line != first]
    return [first, *(line for line in rest if key_of(line) in own)], [line for line in rest if key_of(line) not in own]


def key_of(difference: str) -> str:
    """The setting of a line of `other_settings`."""
    return difference.split(" is ")[0]


def teacher_facts(source: TeacherBundle) -> dict[str, str | None]:
    """{path, sha256} of the teacher's weights, which a checkpoint has instead of them; None of what has none."""
    net = source.teacher.network if source.teacher else None
    return {"path": source.path, "sha256": weights_digest(net.state_dict()) if net is not None else None}


def resume_point(folder: Path, teacher: dict[str, str | None]) -> Path | None:
    """The newest whole checkpoint of a folder, None if there is none. Raises ValueError if its teacher was another."""
    checkpoint = newest_valid(folder)
    before = read_metadata(checkpoint).get("teacher") if checkpoint is not None else None
    if before is not None and before["sha256"] != teacher["sha256"]:
        raise ValueError(
            f"The teacher has changed since {checkpoint}: found {teacher['path']} with weights of sha256 "
            f"{_short(teacher)}, expected those of {before['path']} with {_short(before)}. Restore that file (or set "
            "teacher.path to a copy of it), or start afresh, without resume."
        )
    return checkpoint


def _short(teacher: dict[str, str | None]) -> str:
    return (teacher["sha256"] or "none")[:16]
