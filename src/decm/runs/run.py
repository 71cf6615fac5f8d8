"""What a run folder says, as plain data."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INCIDENTS, ROLLBACKS = "incidents", "rollbacks.jsonl"  # guard.py's, which imports too much for a list of runs
DATA = "data.json"  # what the data are: their manifest without the list of files
COMMANDS = "command.txt"  # a line each time that the run was started: when, and how
# Settings that say how a run is started, not what it is.
UNTOLD = ("runs", "resume", "dry_run", "debug", "report", "contents")
FINISHED, RUNNING, UNFINISHED, DAMAGED = "finished", "running", "unfinished", "damaged"
TAIL = 4096  # bytes: the last lines of metrics.csv, however long it is


@dataclass(frozen=True)
class Series:
    """One column of metrics.csv: optimizer steps and values."""

    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """A run folder; `defaults` is the configuration of its experiment as it stands in conf/, {} where it is unknown."""

    folder: Path
    config: dict[str, Any]
    defaults: dict[str, Any]
    results: dict[str, Any] | None
    state: str
    parameters: int | None = None

    @property
    def name(self) -> str:
        """The experiment."""
        return str(self.config.get("name", self.folder.name))

    @property
    def scores(self) -> dict[str, Any]:
        """results.json, if it has scores: a teacher that was trained for another run has none."""
        return self.results if self.results and "metric" in self.results else {}

    def metrics(self) -> dict[str, Series]:
        """The columns of metrics.csv by name; what is no number is left out, and so is a line that was cut off."""
        path, found = self.folder / "metrics.csv", dict[str, Series]()
        if not path.is_file():
            return found
        text = path.read_text(encoding="utf-8-sig")  # at once: of a file that grows, a line would be read in two
        for row in csv.DictReader(text[: text.rfind("\n") + 1].splitlines()):
            step = _number(row.pop("step", None))
            for name, entry in row.items():
                value = _number(entry)
                if step is not None and value is not None and name:
                    series = found.setdefault(name, Series())
                    series.steps.append(step)
                    series.values.append(value)
        return found

    def last_step(self) -> int:
        """The optimizer steps done: all if it is finished, else those that the last lines of metrics.csv tell."""
        path, total = self.folder / "metrics.csv", self.config.get("max_steps")
        if self.state == FINISHED and isinstance(total, int):
            return total  # the last line is of a step before it where not every step is logged
        if not path.is_file():
            return 0
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            lines = file.read().decode(errors="replace").splitlines(keepends=True)
        firsts = [line.split(",", 1)[0] for line in lines[-20:] if line.endswith("\n")]
        step = next((int(first) + 1 for first in reversed(firsts) if first.isdecimal()), 0)
        return min(step, total) if isinstance(total, int) else step

    def incidents(self) -> list[dict[str, Any]]:
        """What was written about each skipped step, in the order of steps. Raises ValueError for a damaged file."""
        return [_metadata(path, path.read_bytes()) for path in sorted((self.folder / INCIDENTS).glob("step_*.json"))]

    def rollbacks(self) -> list[dict[str, Any]]:
        """Why the run went back, and to which checkpoint; a line that was cut off is left out.

        Raises ValueError for a damaged file.
        """
        path = self.folder / ROLLBACKS
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        return [_metadata(path, line) for line in lines if line.endswith(b"\n")]

    def commands(self) -> list[str]:
        """How the run was started, each time, with the time before it; [] where it was not written down."""
        path = self.folder / COMMANDS
        return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []

    def class_names(self) -> list[str]:
        """What the labels 0, 1, ... are called; [] where it is unknown. Raises ValueError for a damaged file."""
        from decm.data.manifest import manifest_of  # too much for a list of runs

        path = self.folder / DATA
        if not path.is_file():
            return []
        metadata = _metadata(path, path.read_bytes())
        try:
            manifest = manifest_of(metadata)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is damaged ({error}). Remove it: the page is drawn without names.") from error
        return manifest.labels() if manifest.class_names else []

    def changes(self) -> list[tuple[str, ...]]:
        """(setting, its default, its value) of what is not as the experiment has it."""
        return varying_settings([self.defaults, self.config]) if self.defaults else []


def _metadata(path: Path, text: bytes) -> dict[str, Any]:
    try:
        metadata = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Mend or remove it.") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{path} is damaged: expected metadata by name. Mend or remove it.")
    return metadata


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """{dotted key: value}; `method` is the segments' names, the numbers of each stand below `method.<name>`."""

    def walk(node: Any, path: str) -> dict[str, Any]:
        if isinstance(node, dict) and node:
            return {
                k: v for key, value in node.items() for k, v in walk(value, f"{path}.{key}" if path else key).items()
            }
        return {path: node}

    told = {key: value for key, value in config.items() if key not in (*UNTOLD, "method")}
    segments = config.get("method") or {}
    return walk(told, "") | {"method": sorted(segments)} | (walk(segments, "method") if segments else {})


def shown(value: Any) -> str:
    """A setting as a person writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def varying_settings(configs: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """(setting, its value in each configuration) of the settings in which they are not alike.

    A segment's numbers are compared where all have the segment: its name among `method` says it otherwise.
    """
    flats = [flat(config) for config in configs]
    shared = set.intersection(*(set(one["method"]) for one in flats))
    found = []
    for key in dict.fromkeys(key for one in flats for key in one):
        if key.startswith("method.") and key.split(".")[1] not in shared:
            continue
        values = tuple(shown(one[key]) if key in one else "-" for one in flats)
        if len(set(values)) > 1:
            found.append((key, *values))
    return found
