"""Rows of finished runs with mean and standard error, as Markdown, CSV, JSON and a figure, checked against bars.

    python benchmarks/results.py FOLDER... --out docs/results/digits --bars 1.15,1.15,1.0,1.1 --accuracy 0.98
    python benchmarks/results.py FOLDER... --out docs/results/ablation --ordering

A FOLDER holds runs as <row>-<seed>; a run by another name is of decm. The seeds are paired across rows. Exits with 1
where a bar is missed.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from comparing.choices import sentences
from comparing.rows import Run, paired, read_run, summary
from comparing.writing import described, write

NFES = ("1", "2", "4", "50")
TITLES = {
    "fm": "FM",
    "cd": "CD",
    "fm_cd": "FM + CD",
    "fm_n2n": "FM + N2N",
    "decm": "DE-CM (FM + CD + N2N)",
    "cd_facm": "CD, FACM's form",
    "decm_facm": "DE-CM, FACM's form",
}
Runs = dict[str, dict[int, Run]]


def collect(folders: list[Path]) -> Runs:
    """{row: {seed: run}} of every finished distillation below the folders, in the order of TITLES."""
    rows: Runs = {}
    for path in sorted(path for folder in folders for path in folder.rglob("results.json")):
        run = read_run(path.parent)
        if run.results.get("student"):
            named = re.fullmatch(r"([a-z0-9_]+)-\d+", path.parent.name)
            rows.setdefault(named[1] if named else "decm", {})[run.results["seed"]] = run
    if not rows:
        sys.exit(f"No finished run below {', '.join(map(str, folders))}.")
    order = [*(name for name in TITLES if name in rows), *(name for name in rows if name not in TITLES)]
    return {name: rows[name] for name in order}


def missed_bars(row: dict[str, Any], bars: list[float], accuracy: float) -> list[str]:
    """Which bars on the ratio to the teacher's 50 steps, on its one step and on class accuracy are missed."""
    ratios = {nfe: row["over_teacher_50"][nfe]["mean"] for nfe in NFES}
    missed = [f"NFE {nfe}: {ratios[nfe]:.3f} > {bar}" for nfe, bar in zip(NFES, bars, strict=True) if ratios[nfe] > bar]
    if row["teacher"]["1"]["mean"] < 4 * row["nfe"]["1"]["mean"]:
        missed.append("NFE 1 is not 4 x better than the teacher's")
    missed += [
        f"accuracy at NFE {n}: {row['accuracy'][n]['mean']}" for n in NFES if row["accuracy"][n]["mean"] < accuracy
    ]
    return missed


def missed_ordering(rows: Runs) -> list[str]:
    """Which claims of the paper's ordering do not show, seeds paired."""
    mean = {name: summary(name, runs)["nfe"] for name, runs in rows.items()}

    def times(worse: str, better: str, nfe: str, factor: float) -> list[str]:
        ratio = mean[worse][nfe]["mean"] / mean[better][nfe]["mean"]
        print(f"{worse} / {better} at NFE {nfe}: {ratio:.2f} (expected {factor} or more)")
        return [] if ratio >= factor else [f"{worse} is not {factor} x worse than {better} at NFE {nfe}"]

    missed = times("cd", "decm", "50", 2) + times("fm", "decm", "1", 2) + times("fm_n2n", "decm", "1", 2)
    if "cd_facm" in rows:
        missed += times("cd_facm", "decm_facm", "50", 5)
    for nfe in NFES:
        gap = paired(rows["decm"], rows["fm_cd"], nfe)
        print(f"decm - fm_cd at NFE {nfe}: {gap['mean']:+.3f} ± {gap['sem']:.3f} (paired)")
        if gap["mean"] > 2 * gap["sem"] or (nfe == "2" and gap["mean"] >= 0):
            missed.append(f"decm is worse than fm_cd at NFE {nfe}")
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, help="without a suffix: .md, .csv, .json, .png and .svg are written")
    parser.add_argument("--bars", type=lambda text: [float(part) for part in text.split(",")])
    parser.add_argument("--accuracy", type=float, default=0.98)
    parser.add_argument("--ordering", action="store_true")
    parser.add_argument("--command", help="what made the runs, for the record", default="")
    args = parser.parse_args()

    runs = collect(args.folders)
    rows = [summary(name, found, title=TITLES.get(name, name)) for name, found in runs.items()]
    if args.out:
        document = described(args.command, rows, runs, "decm")
        write(args.out, document, sentences(document["paired"], TITLES))
    missed = missed_ordering(runs) if args.ordering else []
    if args.bars:
        missed += missed_bars(next(row for row in rows if row["name"] == "decm"), args.bars, args.accuracy)
    sys.exit("Missed: " + "; ".join(missed) if missed else 0)


if __name__ == "__main__":
    main()
