"""The table of a sweep: its jobs, the best first and ready to paste, what they depend on, and which are unfinished."""

import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from decm.checkpoints.durable import write_text
from decm.evaluation.titles import judge_note
from decm.runs.folders import judged_by, metric_at, planned_results

SWEEP, OVERRIDES, TABLE = "sweep.yaml", "overrides.yaml", "sweep.md"
# What the meaning of a figure depends on.
SCORED_BY = ("data", "data.path", "distill", "evaluation", "evaluation.nfe", "evaluation.num_samples")
FAILURE = "failure.json"  # in the folder of a job that failed
HOW = ("resume", "debug", "launcher")  # overrides that say how a sweep is done, not which
ENOUGH = 4  # jobs, below which importances are not shown
TREES = 64  # as in Hutter et al. 2014 and Optuna


@dataclass(frozen=True)
class Job:
    """A job of a sweep: its number, its overrides by key, and its results as soon as it has any, or its error."""

    number: str
    overrides: dict[str, str]
    results: dict[str, Any] | None
    failure: dict[str, Any] | None = None  # {message, code, when}


def is_sweep(folder: Path) -> bool:
    """Whether a folder is a sweep's."""
    return (folder / SWEEP).is_file()


def read_jobs(folder: Path) -> list[Job]:
    """The jobs that have begun, by number."""
    jobs = []
    for path in sorted(folder.glob(f"*/{OVERRIDES}"), key=lambda path: (len(path.parent.name), path.parent.name)):
        try:
            words = dict(_key_and_value(word) for word in yaml.safe_load(path.read_text(encoding="utf-8")))
        except (yaml.YAMLError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{path} is damaged; expected a list of key=value. Remove the folder of the job."
            ) from error
        results = planned_results(path.parent)
        kept = {key: words[key] for key in words if key not in (*HOW, "sweep")}
        failure = read_failure(path.parent) if results is None else None
        jobs.append(Job(path.parent.name, kept, results, failure))
    return jobs


def _key_and_value(word: str) -> tuple[str, str]:
    """`key=value`, of which `~key`, which leaves a setting out, has no value."""
    key, equals, value = word.partition("=")
    if not equals and not word.startswith("~"):
        raise ValueError(word)
    return key, value


def _word(key: str, value: str) -> str:
    """The override of a key and its value, as it was typed."""
    return f"{key}={value}" if value or not key.startswith("~") else key


def read_failure(folder: Path) -> dict[str, Any] | None:
    """{message, code, when} of a job that failed, None of another."""
    path = folder / FAILURE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"message": str(found["message"]), "code": int(found["code"]), "when": path.stat().st_mtime}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}). Remove it; resume=auto does the job again.") from error


def planned_jobs(folder: Path) -> int:
    """The number of jobs that sweep.yaml plans, 0 without it. Raises ValueError, by name, if it is damaged."""
    if not is_sweep(folder):
        return 0
    path = folder / SWEEP
    try:
        jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged; expected `jobs: <a number>` in it. Write it again.") from error
    if not isinstance(jobs, int) or isinstance(jobs, bool):
        raise ValueError(f"{path} has jobs={jobs!r}; expected the number of jobs of the sweep. Write it again.")
    return jobs


def inherited_words(folder: Path) -> list[str]:
    """What the command of each job has besides its overrides, as sweep.yaml has it."""
    words = yaml.safe_load((folder / SWEEP).read_text(encoding="utf-8")).get("inherited") if is_sweep(folder) else None
    return [str(word) for word in words or []]


def swept(jobs: list[Job]) -> list[str]:
    """The settings that the jobs differ in."""
    keys = dict.fromkeys(key for job in jobs for key in job.overrides)
    return [key for key in keys if len({job.overrides.get(key) for job in jobs}) > 1]


def write_report(folder: Path, nfe: int | None = None) -> str:
    """Write sweep.md into the folder of a sweep; its text and place."""
    text = report(folder, nfe)
    write_text(folder / TABLE, text)
    return f"{text}\n{folder / TABLE}"


def report(folder: Path, nfe: int | None = None) -> str:
    """Markdown. Sorted by the metric at `nfe` steps; without it, by what the jobs returned.

    What is not finite comes last. Raises ValueError for steps that were not evaluated, and for a damaged file.
    """
    planned, jobs = planned_jobs(folder), read_jobs(folder)
    finished = [job for job in jobs if job.results is not None]
    lines = [f"# Sweep {folder.name}", ""]
    if finished:
        value, scored = _metric(finished, nfe)
        keys, sound = swept(jobs), [job for job in finished if math.isfinite(value[job.number])]
        sound.sort(key=lambda job: value[job.number])
        finished = [*sound, *(job for job in finished if job not in sound)]
        lines += _table(finished, keys)
        lines += ["", f"Sorted by {'; '.join(scored)}; lower is better.", ""]
        lines += [f"{note}\n" for note in dict.fromkeys(judge_note(job.results or {}) for job in finished) if note]
        alike = len({judged_by(job.results or {}) for job in finished}) == len(scored) == 1
        if warning := _not_comparable(keys, alike):
            lines += warning
        elif sound:
            best = paste(sound[0], keys, inherited_words(folder))
            lines += ["The best, to paste:", "", f"    {best}", "", *_importances(sound, value)]
        else:
            lines += ["No job has a finite figure, so that none is the best.", ""]
    else:
        lines.append("No job has results yet.")
    return "\n".join([*lines, *_unfinished(jobs, planned)]) + "\n"


def _not_comparable(keys: list[str], alike: bool) -> list[str]:
    """A warning where the jobs are scored on different data, by different judges, or on other numbers of samples."""
    names = [key for key in keys if key in SCORED_BY or key.startswith("evaluation.protocol.")]
    if not alike and not names:
        names = ["what was scored"]
    return [f"The jobs differ in {', '.join(names)}: their figures do not compare.", ""] if names else []


def _metric(jobs: list[Job], nfe: int | None) -> tuple[dict[str, float], list[str]]:
    """({job number: metric}, what it is: more than one description where the jobs were scored differently)."""
    values, scored = dict[str, float](), list[str]()
    for job in jobs:
        results = job.results or {}
        who, steps, values[job.number] = metric_at(results, nfe)
        name = str(results["metric"]).replace("_", " ")
        scored.append(f"the {who}'s {name} at NFE {steps} ({results['num_samples']} samples to {results['reference']})")
    return values, list(dict.fromkeys(scored))


def _table(jobs: list[Job], keys: list[str]) -> list[str]:
    """A line a job, in the order given: what they differ in, and the metric of what was trained at each NFE."""
    found = dict[str, dict[tuple[str, int], float]]()
    for job in jobs:
        results = job.results or {}
        who = metric_at(results)[0]
        found[job.number] = {(who, int(nfe)): value for nfe, value in results[who].items()}
    columns = sorted({column for own in found.values() for column in own})
    lines = [
        f"| {' | '.join(['job', *keys, *(f'{name}, NFE {nfe}' for name, nfe in columns)])} |",
        f"| ---: |{' --- |' * len(keys)}{' ---: |' * len(columns)}",
    ]
    for job in jobs:
        own = found[job.number]
        figures = [f"{own[column]:.3f}" if column in own else "" for column in columns]
        values = [_short(job.overrides.get(key, "")) for key in keys]
        lines.append(f"| {' | '.join([job.number, *values, *figures])} |")
    return lines


def _short(value: str) -> str:
    """A drawn number to four digits; anything else as it is."""
    try:
        return f"{float(value):.4g}" if "." in value else value
    except ValueError:
        return value


def paste(job: Job, keys: list[str], inherited: list[str]) -> str:
    """The command line of a job as a run of its own, the experiment first and what was swept last.

    What the sweep's file set for all jobs (a shorter run, say) is left to the experiment.
    """
    order = sorted(job.overrides, key=lambda key: (key != "experiment", key in keys))
    return shlex.join(["decm", "train", *(_word(key, job.overrides[key]) for key in order), *inherited])


def _unfinished(jobs: list[Job], planned: int) -> list[str]:
    failed = [job for job in jobs if job.failure is not None]
    begun = [job.number for job in jobs if job.results is None and job.failure is None]
    waiting = max(0, planned - len(jobs))
    if not failed and not begun and not waiting:
        return ["All jobs are finished."]
    lines = ["Failed:", "", *(_failed(job, swept(jobs)) for job in failed), ""] if failed else []
    parts = [f"failed: {', '.join(job.number for job in failed)}"] if failed else []
    parts += [f"begun and without results: {', '.join(begun)}"] if begun else []
    parts += [f"not begun: {waiting} of {planned}"] if waiting else []
    return [*lines, f"Unfinished: {'; '.join(parts)}. The same command with resume=auto goes on."]


def _failed(job: Job, keys: list[str]) -> str:
    """A line about a job that failed: what it differs in, and its own sentence."""
    assert job.failure is not None
    differs = ", ".join(_word(key, job.overrides[key]) for key in keys if key in job.overrides)
    return f"- job {job.number}{f' ({differs})' if differs else ''}: {' '.join(job.failure['message'].split())}"


def _importances(jobs: list[Job], value: dict[str, float]) -> list[str]:
    """A sentence on what the metric depends on."""
    found = importances([(job.overrides, value[job.number]) for job in jobs])
    if not found:
        return []
    shares = ", ".join(f"{key} {share:.2f}" for key, share in sorted(found.items(), key=lambda item: -item[1]))
    return [f"Importance (functional ANOVA of a random forest over {len(jobs)} jobs, main effects): {shares}.", ""]


def importances(trials: list[tuple[dict[str, str], float]]) -> dict[str, float]:
    """{setting: its share of the main effects}, Var_j E[metric | setting j] under a random forest (Hutter et al. 2014).

    Expectation and variance are over the values that were tried, so that a number drawn on a logarithmic scale counts
    on that scale. {} where they mean nothing: too few jobs, equal figures, one setting alone. Optuna's own
    evaluator (2.10, which hydra-optuna-sweeper pins) fails under NumPy 2.
    """
    keys = dict.fromkeys(key for overrides, _ in trials for key in overrides)
    columns = {key: _numbers([overrides.get(key, "") for overrides, _ in trials]) for key in keys}
    columns = {key: column for key, column in columns.items() if len(set(column)) > 1}
    if len(trials) < ENOUGH or len(columns) < 2 or len({value for _, value in trials}) == 1:
        return {}
    import numpy as np
    from sklearn.ensemble import RandomForestRegressor

    points = np.stack([np.array(column) for column in columns.values()], axis=1)
    forest = RandomForestRegressor(TREES, random_state=0).fit(points, [value for _, value in trials])
    effects = []
    for j in range(len(columns)):
        grid = np.repeat(points[None], len(points), axis=0)  # [value of setting j, trial, setting]
        grid[:, :, j] = points[:, j, None]
        effects.append(forest.predict(grid.reshape(-1, len(columns))).reshape(grid.shape[:2]).mean(1).var())
    total = sum(effects)
    return {key: float(effect / total) for key, effect in zip(columns, effects, strict=True)} if total else {}


def _numbers(values: list[str]) -> list[float]:
    """The values as numbers, those of which one is none by the order in which they came."""
    try:
        return [float(value) for value in values]
    except ValueError:
        return [float(list(dict.fromkeys(values)).index(value)) for value in values]
