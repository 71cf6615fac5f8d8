"""The table of a sweep, made when its last job is done: one line a job, the best first."""

import json
from pathlib import Path
from typing import Any

import yaml
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from decm.cli.runs import RESULTS

Job = tuple[dict[str, str], dict[str, Any]]  # (overrides by key, results)


class SweepTable(Callback):
    """Writes sweep.md into the folder of a sweep whose jobs keep their overrides, and prints it."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        table = sweep_table(read_jobs(folder))
        (folder / "sweep.md").write_text(table)
        print(f"\n{table}\n{folder / 'sweep.md'}", flush=True)


def read_jobs(folder: Path) -> list[Job]:
    """Overrides and results of the jobs of a sweep, those without results left out."""
    jobs = []
    for path in sorted(folder.glob(f"*/{RESULTS}"), key=lambda path: (len(path.parent.name), path.parent.name)):
        overrides = yaml.safe_load((path.parent / ".hydra" / "overrides.yaml").read_text())
        jobs.append((dict(override.split("=", 1) for override in overrides), json.loads(path.read_text())))
    return jobs


def sweep_table(jobs: list[Job]) -> str:
    """Markdown: what the jobs differ in and the metric at each NFE, sorted by it at the most steps."""
    if not jobs:
        return "No job of the sweep has results.\n"
    who = "student" if jobs[0][1]["student"] else "teacher"
    nfes = sorted(jobs[0][1][who], key=int)
    jobs = sorted(jobs, key=lambda job: job[1][who][nfes[-1]])
    given = dict.fromkeys(key for overrides, _ in jobs for key in overrides)
    swept = [key for key in given if len({overrides.get(key) for overrides, _ in jobs}) > 1]
    lines = [
        f"| {' | '.join([*swept, *(f'{who}, NFE {nfe}' for nfe in nfes)])} |",
        f"|{' --- |' * len(swept)}{' ---: |' * len(nfes)}",
    ]
    for overrides, results in jobs:
        values = [overrides.get(key, "") for key in swept] + [f"{results[who][nfe]:.3f}" for nfe in nfes]
        lines.append(f"| {' | '.join(values)} |")
    best, results = jobs[0]
    lines += [
        "",
        f"{results['metric']} of {results['num_samples']} samples to {results['reference']}; lower is better.",
        f"Best: {' '.join(f'{key}={best[key]}' for key in swept if key in best)}",
    ]
    return "\n".join(lines) + "\n"
