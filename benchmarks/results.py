"""Collect results.json of finished runs into rows with mean and standard error, and check them against bars.

    python benchmarks/results.py FOLDER... --out docs/results/digits.json --bars 1.15,1.15,1.0,1.1 --accuracy 0.98
    python benchmarks/results.py FOLDER... --out docs/results/ablation.json --ordering

A FOLDER is a run or holds runs at any depth. A row is an objective (and its consistency form, where that is not the
default); its seeds are its runs, paired across rows. Exits with 1 where a bar is missed.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import yaml

CONF = Path(__file__).resolve().parents[1] / "conf"
DEFAULT_FORM = yaml.safe_load((CONF / "segment/digits.yaml").read_text())["consistency"]["objective"]["form"]
NFES = ("1", "2", "4", "50")


def row_name(config: dict[str, Any]) -> str:
    """The objective's name in conf/objective, by its segments."""
    segments = set(config["objective"])
    names = [
        p.stem for p in sorted((CONF / "objective").glob("*.yaml")) if set(yaml.safe_load(p.read_text())) == segments
    ]
    form = config["objective"].get("consistency", {}).get("objective", {}).get("form", DEFAULT_FORM)
    return (names[0] if names else "+".join(sorted(segments))) + ("" if form == DEFAULT_FORM else f" ({form})")


def collect(folders: list[Path]) -> dict[str, dict[int, dict[str, Any]]]:
    """{row: {seed: results}} of every finished distillation below the folders."""
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("results.json")):
            results = json.loads(path.read_text())
            if results.get("student"):
                config = yaml.safe_load((path.parent / "config.yaml").read_text())
                rows.setdefault(row_name(config), {})[results["seed"]] = results
    if not rows:
        sys.exit(f"No finished run below {', '.join(map(str, folders))}.")
    return rows


def mean_sem(values: list[float]) -> dict[str, float]:
    """Mean and standard error of the mean (0 for a single value)."""
    sem = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"mean": round(statistics.fmean(values), 4), "sem": round(sem, 4)}


def summary(name: str, runs: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """One row: each NFE's mean and standard error, the same over the teacher's most steps, accuracy, cost."""

    def per_nfe(value: Any) -> dict[str, Any]:
        return {nfe: mean_sem([value(run, nfe) for run in runs.values()]) for nfe in NFES}

    return {
        "name": name,
        "nfe": per_nfe(lambda run, nfe: run["student"][nfe]),
        "over_teacher_50": per_nfe(lambda run, nfe: run["student"][nfe] / run["teacher"]["50"]),
        "accuracy": per_nfe(lambda run, nfe: run["accuracy"][nfe]),
        "teacher": per_nfe(lambda run, nfe: run["teacher"][nfe]),
        "samplers": next(iter(runs.values()))["samplers"],
        "forward_equivalents": statistics.fmean(run["forward_equivalents"] for run in runs.values()),
        "seconds": [run["seconds"] for run in runs.values()],
        "seeds": sorted(runs),
        "code_version": sorted({run["code_version"] for run in runs.values()}),
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: the teacher's row, then a row for each objective."""

    def cells(values: dict[str, Any]) -> str:
        return " | ".join(f"{values[nfe]['mean']:.3f} ± {values[nfe]['sem']:.3f}" for nfe in NFES)

    lines = ["| trained with | NFE 1 | 2 | 4 | 50 |", "| --- | ---: | ---: | ---: | ---: |"]
    teacher = rows[0]["teacher"]
    lines.append("| teacher (Euler) | " + " | ".join(f"{teacher[nfe]['mean']:.3f}" for nfe in NFES) + " |")
    return "\n".join(lines + [f"| {row['name']} | {cells(row['nfe'])} |" for row in rows])


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


def missed_ordering(rows: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    """Which claims of the paper's ordering do not show, seeds paired."""
    mean = {name: summary(name, runs)["nfe"] for name, runs in rows.items()}

    def times(worse: str, better: str, nfe: str, factor: float) -> list[str]:
        ratio = mean[worse][nfe]["mean"] / mean[better][nfe]["mean"]
        print(f"{worse} / {better} at NFE {nfe}: {ratio:.2f} (expected {factor} or more)")
        return [] if ratio >= factor else [f"{worse} is not {factor} x worse than {better} at NFE {nfe}"]

    missed = times("cd", "decm", "50", 2) + times("fm", "decm", "1", 2) + times("fm_n2n", "decm", "1", 2)
    if "cd (facm)" in rows:
        missed += times("cd (facm)", "decm (facm)", "50", 5)
    for nfe in NFES:
        gaps = [rows["decm"][seed]["student"][nfe] - rows["fm_cd"][seed]["student"][nfe] for seed in rows["decm"]]
        gap = mean_sem(gaps)
        print(f"decm - fm_cd at NFE {nfe}: {gap['mean']:+.3f} ± {gap['sem']:.3f} (paired)")
        if gap["mean"] > 2 * gap["sem"] or (nfe == "2" and gap["mean"] >= 0):
            missed.append(f"decm is worse than fm_cd at NFE {nfe}")
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--bars", type=lambda text: [float(part) for part in text.split(",")])
    parser.add_argument("--accuracy", type=float, default=0.98)
    parser.add_argument("--ordering", action="store_true")
    parser.add_argument("--command", help="what made the runs, for the record", default="")
    args = parser.parse_args()

    rows = collect(args.folders)
    summaries = [summary(name, runs) for name, runs in rows.items()]
    print(table(summaries))
    missed = missed_ordering(rows) if args.ordering else []
    if args.bars:
        missed += missed_bars(next(row for row in summaries if row["name"] == "decm"), args.bars, args.accuracy)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"command": args.command, "rows": summaries}, indent=2) + "\n")
    sys.exit("Missed: " + "; ".join(missed) if missed else 0)


if __name__ == "__main__":
    main()
