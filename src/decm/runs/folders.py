"""Run folders: where a run writes, which unfinished one it continues, which checkpoint a path means."""

import json
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from decm.checkpoints.durable import write_text
from decm.checkpoints.first_process import announce_folder, inherited_folder
from decm.runs.contents import both_by_content
from decm.runs.locks import lock
from decm.runs.run import COMMANDS, DATA

Settings = Callable[[dict[str, Any]], dict[str, Any]]
CONFIG, RESULTS = "config.yaml", "results.json"
EARLIER_RESULTS = "results_step{}.json"  # at the end that a run had before it was trained longer
SHOWN = 5  # differences in a message
TIME_FORMAT = "%Y-%m-%d_%H-%M-%S"
# What two runs with the same settings may differ in; folders may move, and from a budget max_steps follows.
NOT_SETTINGS = (
    "budget",
    "resume",
    "debug",
    "dry_run",
    "runs",
    "logger",
    "faults",
    "guard",
    "self_check",
    "expected",
    "report",
    "contents",
)
# Of the trainer, what says where and how a run is done rather than what: it may go on with another number of devices.
NOT_SETTINGS_OF_TRAINER = (
    "accelerator",
    "devices",
    "num_nodes",
    "strategy",
    "threads",
    "compile",
    "reshard",
    "checkpoint_every",
    "log_every",
    "keep",
)


def read_config(folder: Path) -> dict[str, Any] | None:
    """The plain configuration of a run folder, or None if it has none. Raises ValueError, by name, if it is damaged."""
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is damaged ({' '.join(str(error).split())}). Mend it or remove its run.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is damaged: expected settings, key: value. Mend it or remove its run.")
    return config


def comparable_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that the figures of a run depend on."""
    kept = {key: value for key, value in settings.items() if key not in NOT_SETTINGS}
    if isinstance(kept.get("trainer"), dict):
        kept["trainer"] = {k: v for k, v in kept["trainer"].items() if k not in NOT_SETTINGS_OF_TRAINER}
    return kept


def training_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that the trained weights depend on: a run may go on with another evaluation."""
    return {key: value for key, value in comparable_settings(settings).items() if key != "evaluation"}


def other_settings(a: dict[str, Any], b: dict[str, Any], of: Settings = training_settings) -> list[str]:
    """What differs between two plain configurations as far as `of` goes, data and weights compared by content."""
    first, second = both_by_content(a, b)
    return differences(of(first), of(second))


def same_settings(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two runs would train the same, so that one may go on with the other's folder."""
    return not other_settings(a, b)


def differences(a: dict[str, Any], b: dict[str, Any], path: str = "") -> list[str]:
    """The settings in which two plain configurations differ, as `key=found, expected`."""
    found = []
    for key in dict.fromkeys([*a, *b]):
        one, other = a.get(key), b.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found += differences(one, other, f"{path}{key}.")
        elif one != other:
            was, now = ("set" if isinstance(value, dict) else value for value in (one, other))
            found.append(f"{path}{key} is {now}, was {was}")
    return found


def shortened(lines: list[str]) -> str:
    """The first few differences in one line."""
    more = f" (and {len(lines) - SHOWN} more)" if len(lines) > SHOWN else ""
    return "; ".join(lines[:SHOWN]) + more


def run_folders(root: Path, experiment: str) -> list[Path]:
    """The run folders of an experiment, newest first."""
    folder = root / experiment
    found = [path for path in folder.iterdir() if (path / CONFIG).is_file()] if folder.is_dir() else []
    return sorted(found, key=lambda path: path.name, reverse=True)


def unfinished_folders(root: Path, experiment: str) -> list[Path]:
    """The run folders of an experiment that have no results yet, newest first."""
    return [folder for folder in run_folders(root, experiment) if not (folder / RESULTS).is_file()]


def unfinished(root: Path, settings: dict[str, Any]) -> Path | None:
    """The newest run folder of the same experiment and settings that has no results yet."""
    for folder in unfinished_folders(root, settings["name"]):
        if same_settings(read_config(folder) or {}, settings):
            return folder
    return None


def new_folder(root: Path, experiment: str) -> Path:
    """`root/experiment/<time>`, made now; a counter is added where two runs start within a second."""
    stamp = time.strftime(TIME_FORMAT)
    for k in range(1000):
        folder = root / experiment / (stamp if k == 0 else f"{stamp}_{k}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise OSError(f"No free run folder beside {folder}.")


def new_evaluation(folder: Path) -> str:
    """`evaluation_<time>`, by which an evaluation's files in `folder` begin; no other evaluation has it.

    Its table, empty so far, is made at once, which no two processes can do.
    """
    stamp = f"evaluation_{time.strftime(TIME_FORMAT)}"
    for k in range(1000):
        name = stamp if k == 0 else f"{stamp}_{k}"
        try:
            (folder / f"{name}.md").touch(exist_ok=False)
            return name
        except FileExistsError:
            continue
    raise OSError(f"No free name {stamp} in {folder}.")


def open_folder(settings: dict[str, Any], chosen: Path | None = None) -> Path:
    """The folder that this run writes to: `chosen` (of a run that goes on, or a sweep's), or a new one.

    It is locked for this process. Raises ValueError if it cannot be written or another process has it.
    """
    root = Path(settings["runs"])
    inherited = inherited_folder("DECM_RUN_FOLDER", root)
    if inherited is not None:
        return inherited
    try:
        folder = chosen or new_folder(root, settings["name"])
        folder.mkdir(parents=True, exist_ok=True)
        lock(folder)
        rename_old_results(folder, settings)
        write_config(folder, settings)
    except OSError as error:
        raise ValueError(f"A run folder below {root} cannot be written: {error}. Set runs=<your folder>.") from error
    announce_folder("DECM_RUN_FOLDER", folder, root)
    return folder


def rename_old_results(folder: Path, settings: dict[str, Any]) -> None:
    """Rename the results of a run that is now trained longer, so that it counts as unfinished until it has new ones."""
    before = (read_config(folder) or {}).get("max_steps")
    if before is not None and before != settings["max_steps"] and (folder / RESULTS).is_file():
        (folder / RESULTS).replace(folder / EARLIER_RESULTS.format(before))


def write_config(folder: Path, settings: dict[str, Any]) -> None:
    """Write the plain configuration of a run into its folder, whole or not at all."""
    write_text(folder / CONFIG, yaml.safe_dump(settings, sort_keys=False))


def append_command(folder: Path, arguments: Sequence[str]) -> None:
    """Write down when and how the run of a folder is started, this time too."""
    with (folder / COMMANDS).open("a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {shlex.join(['decm', 'train', *arguments])}\n")


def save_data_metadata(folder: Path, metadata: dict[str, Any]) -> None:
    """Write down what the data of a run are (`Manifest.metadata`), so that its page can name their classes."""
    write_text(folder / DATA, json.dumps(metadata, indent=2) + "\n")


def read_results(folder: Path, name: str = RESULTS) -> dict[str, Any]:
    """results.json of a run folder. Raises ValueError, by name, if it is damaged."""
    todo = "Remove it and start with resume=auto."
    try:
        results = json.loads((folder / name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / name} is damaged ({error}). {todo}") from error
    if not isinstance(results, dict) or not all(_are_figures(results.get(who)) for who in ("student", "teacher")):
        raise ValueError(f"{folder / name} is damaged: expected figures by name. {todo}")
    return results


def _are_figures(scores: Any) -> bool:
    """Whether it is {steps: number}, or nothing: a teacher that was trained for another run has none."""
    if scores is None:
        return True
    return isinstance(scores, dict) and all(k.isdigit() and isinstance(v, (int, float)) for k, v in scores.items())


def planned_results(folder: Path) -> dict[str, Any] | None:
    """The results of a job of a sweep at its own length, also where it was trained longer since; None if it has none.

    Raises ValueError, by name, if they are damaged.
    """
    earlier = [path.name for path in folder.glob(EARLIER_RESULTS.format("*"))]
    name = min(earlier, key=lambda name: (len(name), name), default=RESULTS)  # the fewest steps
    return read_results(folder, name) if (folder / name).is_file() else None


def write_results(folder: Path, results: dict[str, Any], name: str = RESULTS) -> None:
    """Write results whole or not at all."""
    write_text(folder / name, json.dumps(results, indent=2) + "\n")


def judged_by(results: dict[str, Any]) -> tuple[str, ...]:
    """What the figures of results are: those of others with the same compare with them."""
    return tuple(str(results.get(key)) for key in ("metric", "reference", "data", "num_samples"))


def metric_at(results: dict[str, Any], nfe: int | None = None) -> tuple[str, int, float]:
    """(who, steps, metric) of results, at `nfe` steps.

    Without `nfe`: the student's at its fewest, or the teacher's at its most. Raises ValueError for other steps than
    were evaluated, and where none were.
    """
    who = "student" if results.get("student") else "teacher"
    steps = sorted(int(key) for key in results.get(who) or {})
    if not steps:
        raise ValueError("The results have no figures, neither of a student nor of a teacher; expected a scored run.")
    chosen = (steps[0] if who == "student" else steps[-1]) if nfe is None else nfe
    if chosen not in steps:
        raise ValueError(f"nfe={nfe} was not evaluated; choose one of {', '.join(map(str, steps))}.")
    return who, chosen, float(results[who][str(chosen)])


def metric(results: dict[str, Any]) -> float | None:
    """What sweepers minimize; None where nothing is judged."""
    return None if results.get("metric") == "none" else metric_at(results)[2]
