"""Compare methods at the same cost, each tuned by the same protocol, over the same seeds.

    python benchmarks/compare.py benchmarks/compare/digits.yaml                     # all stages
    python benchmarks/compare.py benchmarks/compare/digits.yaml --stages tune,samplers --only decm,sct --jobs 2
    python benchmarks/compare.py benchmarks/compare/twod.yaml --stages run,table logger=csv

The stages, each of which does only what is missing, so that a comparison that was killed is started again:

tune      each candidate of a method at a share of the budget, with a seed that is not compared; the best geometric
          mean of the metric over the NFEs is chosen (<work>/tuning.json)
samplers  each method's tuned run at NFE 2 and 4 with every sampler (<work>/samplers.json); the best is named, and is
          written into the method's YAML by hand before `run`
run       the chosen candidate over the seeds, at the whole budget
table     Markdown, CSV, figure and JSON into docs/results
"""

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from comparing.choices import choose, failures, protocol, sentences, told
from comparing.jobs import Pool, failure, result
from comparing.plan import Job, read_plan, run_jobs, settings, tune_jobs
from comparing.rows import Run, read_run, summary
from comparing.samplers import Scores, best, parts, sampler_table, score_samplers
from comparing.writing import described, write

from decm.runs.locks import locked

STAGES = ("tune", "samplers", "run", "table")
ROOT = Path(__file__).resolve().parents[1]


class Comparison:
    """The stages of one plan in one work folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.plan, self.extra = args, read_plan(args.plan), list(args.overrides)
        unknown = sorted(set(args.only) - set(self.plan.methods))
        if unknown:
            raise ValueError(
                f"--only {unknown[0]}: not a method of {args.plan}; it has {', '.join(self.plan.methods)}."
            )
        self.names = [name for name in self.plan.methods if not args.only or name in args.only]
        self.work: Path = args.work or args.runs / "compare" / args.plan.stem
        self.work.mkdir(parents=True, exist_ok=True)
        began = self.work / "began"
        if not began.is_file():
            began.write_text(time.strftime("%Y-%m-%d"), encoding="utf-8")
        self.pool = Pool(args.jobs, args.runs, f"compare/{began.read_text(encoding='utf-8')}")
        self.problems: list[str] = []

    def read(self, name: str) -> dict[str, Any]:
        path = self.work / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def save(self, name: str, found: dict[str, Any]) -> None:
        (self.work / name).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    def prepare(self) -> None:
        """Make the caches of the bench, which two jobs would make at once."""
        parts(settings([f"experiment={self.plan.experiment}", *self.plan.overrides, *self.extra]), self.args.runs)

    def tune(self) -> None:
        jobs = {name: tune_jobs(self.plan, name, self.work, self.extra) for name in self.names}
        self.problems += self.pool([job for found in jobs.values() for job in found], "tune")
        tuning = self.read("tuning.json")
        for name, found in jobs.items():
            if all(result(job) or failure(job) for job in found):
                tuning[name] = choose(self.plan, name, found)
        self.save("tuning.json", tuning)
        for name in self.names:
            print(f"{name}: {told(tuning[name]) if name in tuning else 'not all candidates are done'}", flush=True)

    def tuned(self, name: str) -> dict[str, Any]:
        """What the tuning of a method found. Raises ValueError if it was not tuned, or not among these candidates."""
        found = self.read("tuning.json").get(name)
        wanted = self.plan.methods[name].candidates
        if found is None or [tried["overrides"] for tried in found["candidates"]] != wanted:
            raise ValueError(f"{name} is not tuned among the candidates of {self.args.plan}: --stages tune first.")
        return found

    def samplers(self) -> None:
        scores: dict[str, Scores] = self.read("samplers.json")
        dataset, bench = None, None
        for name in self.names:
            chosen = self.tuned(name)["chosen"]
            if chosen is None:
                continue
            job = tune_jobs(self.plan, name, self.work, self.extra)[chosen]
            if dataset is None or bench is None:
                dataset, bench = parts(settings(list(job.overrides)), self.args.runs)
            print(f"samplers of {name}", flush=True)
            scores[name] = score_samplers(job.folder, dataset, bench)
            self.save("samplers.json", scores)
        print(sampler_table({name: scores[name] for name in self.names if name in scores}))
        for name in self.names:
            if name in scores:
                print(f"{name}: " + ", ".join(f"NFE {nfe} {sampler}" for nfe, sampler in best(scores[name]).items()))

    def run_jobs(self, name: str) -> list[Job]:
        chosen = self.tuned(name)["chosen"]
        return [] if chosen is None else run_jobs(self.plan, name, chosen, self.work, self.extra)

    def run(self) -> None:
        jobs = [self.run_jobs(name) for name in self.names]
        by_seed = sorted((job for found in jobs for job in found), key=lambda job: self.plan.seeds.index(job.seed))
        self.problems += self.pool(by_seed, "run")

    def table(self) -> None:
        """All methods of the plan that have runs, whatever `--only` says."""
        runs: dict[str, dict[int, Run]] = {}
        rows = []
        for name, method in self.plan.methods.items():
            try:
                jobs, tuning = self.run_jobs(name), self.tuned(name)
            except ValueError as error:
                print(f"left out of the table: {error}")
                continue
            failed = {job.seed: why for job in jobs if (why := failure(job))}
            runs[name] = {job.seed: read_run(job.folder) for job in jobs if result(job) and job.seed not in failed}
            more: dict[str, Any] = {"title": method.title or name, "method": method.method}
            if jobs:
                more["overrides"] = [*method.overrides, *method.candidates[tuning["chosen"]]]
            if failed or not jobs:
                more["failed"] = failed or {str(self.plan.tuning.seed): "all candidates failed"}
            more["tuning"] = tuning["candidates"]
            if runs[name]:
                rows.append(summary(name, runs[name], **more))
            elif "failed" in more:
                rows.append({"name": name, "nfe": {}, "seeds": [], **more})
            else:
                print(f"left out of the table: {name} has no finished run")
        runs = {name: found for name, found in runs.items() if found}
        if not runs:
            raise ValueError(f"No finished run in {self.work}: --stages run first.")
        self.write(rows, runs)

    def write(self, rows: list[dict[str, Any]], runs: dict[str, dict[int, Run]]) -> None:
        plan = self.plan
        command = self.args.command or f"python benchmarks/compare.py benchmarks/compare/{self.args.plan.name}"
        titles = {name: method.title or name for name, method in plan.methods.items()}
        tuning = {**asdict(plan.tuning), "what": protocol(plan)}
        document = described(command, rows, runs, plan.reference, budget=plan.budget, tuning=tuning)
        notes = [*sentences(document["paired"], titles), *failures(rows)]
        write(self.args.out / plan.out, document, notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path, help="a YAML file as those in benchmarks/compare")
    parser.add_argument("overrides", nargs="*", help="settings of every job, e.g. logger=csv")
    parser.add_argument(
        "--stages", type=lambda text: text.split(","), default=list(STAGES), help="of " + ",".join(STAGES)
    )
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="these methods, by comma")
    parser.add_argument("--jobs", type=int, default=2, help="at a time, one thread each (2)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where teachers and caches live (runs)")
    parser.add_argument("--work", type=Path, help="where jobs and choices are kept (<runs>/compare/<plan>)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs" / "results", help="folder of the tables (docs/results)"
    )
    parser.add_argument("--command", default="", help="what made the runs, for the record")
    args = parser.parse_intermixed_args()
    args.runs = args.runs.resolve()
    unknown = sorted(set(args.stages) - set(STAGES))
    if unknown:
        parser.error(f"--stages {unknown[0]}: expected of {', '.join(STAGES)}")
    try:
        comparison = Comparison(args)
        with locked(comparison.work):
            if {"tune", "run"} & set(args.stages):
                comparison.prepare()
            for stage in STAGES:
                if stage in args.stages:
                    getattr(comparison, stage)()
                    if comparison.problems:
                        sys.exit("\n".join(["Not done:", *comparison.problems]))
    except ValueError as error:
        sys.exit(f"compare: {error}")


if __name__ == "__main__":
    main()
