"""The expected curves of an experiment, from finished runs of it on several seeds, as YAML for conf/experiment/.

    python benchmarks/expected.py FOLDER... --on "2 CPU cores"

Reads every finished run below the FOLDERs, at any depth: all of one experiment, as it is by default but for the seed
and what says how a run is done or how often it is evaluated (evaluation.every=100 measures more of the curve). The
values are geometric means over the seeds; the tolerance is exp(3 d), d the largest standard deviation of the logarithm
over the seeds, or `--minimum` where that is more: other machines, teachers and versions of torch differ too.
"""

import argparse
import math
import statistics
import sys
from pathlib import Path

from comparing.rows import Run, logged, read_run

from decm.experiment.expected import deviations
from decm.training.callbacks.evaluation.expected import Curve

METRICS = (("map_error/0_1", "map_error/0_t"), ("fd/1", "fd/4"))  # the first pair that was taken, where none is named
MINIMUM, DEVIATIONS = 1.25, 3


def read_runs(folders: list[Path]) -> dict[int, Run]:
    """{seed: run} of every finished distillation below the folders.

    Raises ValueError unless there are two or more, of different seeds, all with the settings of one experiment.
    """
    runs: dict[int, Run] = {}
    for path in sorted(path for folder in folders for path in folder.rglob("results.json")):
        run = read_run(path.parent)
        if not run.results.get("student"):  # a teacher's
            continue
        seed, name = run.results["seed"], run.results["experiment"]
        first = next(iter(runs.values()), run)
        if name != first.results["experiment"]:
            raise ValueError(f"{run.folder} is a run of {name}, {first.folder} of {first.results['experiment']}.")
        if seed in runs:
            raise ValueError(f"{run.folder} and {runs[seed].folder} are both of seed {seed}; name one of them.")
        off = deviations(name, run.config)
        if off:
            raise ValueError(f"{run.folder} is not {name} as it is by default: {'; '.join(off[:3])}.")
        runs[seed] = run
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} finished runs below {', '.join(map(str, folders))}; expected two seeds or more.")
    return runs


def measure(runs: dict[int, Run], metric: str, minimum: float = MINIMUM) -> Curve:
    """The curve of a metric of the loop. Raises ValueError where no step was evaluated in all runs."""
    by_seed = [logged(run, metric) for run in runs.values()]
    steps = sorted(set.intersection(*map(set, by_seed)))
    if not steps:
        raise ValueError(f"{metric} was at no step evaluated in the loop of all of {len(runs)} runs.")
    logs = [[math.log(values[step]) for values in by_seed] for step in steps]
    spread = max(statistics.stdev(of_step) for of_step in logs)
    last = next(iter(runs.values())).config["max_steps"]
    return Curve(
        metric,
        [round(step / last, 4) for step in steps],
        [float(f"{math.exp(statistics.fmean(of_step)):.4g}") for of_step in logs],
        max(minimum, math.ceil(100 * math.exp(DEVIATIONS * spread)) / 100),
    )


def described(experiment: str, curves: list[Curve], seeds: list[int], where: str) -> str:
    """The section of the experiment's YAML."""
    origin = ", ".join(["measured on seeds " + ", ".join(map(str, seeds)), *([where] if where else [])])
    lines = [f"expected:                # {origin}: benchmarks/expected.py", f"  experiment: {experiment}", "  curves:"]
    for curve in curves:
        lines += [
            f"    {curve.metric}:",
            f"      at: {list(curve.at)}",
            f"      value: {list(curve.value)}",
            f"      tolerance: {curve.tolerance}",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument(
        "--metrics",
        type=lambda text: text.split(","),
        help="by default map_error/0_1,map_error/0_t where they were taken, else fd/1,fd/4",
    )
    parser.add_argument("--minimum", type=float, default=MINIMUM, help="the least tolerance, a factor")
    parser.add_argument("--on", default="", help="the machine that the runs were made on, for the record")
    args = parser.parse_args()
    try:
        runs = read_runs(args.folders)
        first = next(iter(runs.values()))
        taken = next((pair for pair in METRICS if any(logged(first, metric) for metric in pair)), METRICS[-1])
        curves = [measure(runs, metric, args.minimum) for metric in args.metrics or taken]
    except ValueError as mistake:
        sys.exit(str(mistake))
    print(described(first.results["experiment"], curves, sorted(runs), args.on), end="")


if __name__ == "__main__":
    main()
