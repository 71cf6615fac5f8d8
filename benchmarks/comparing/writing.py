"""Rows as Markdown, CSV, JSON and a figure, for every table that is measured here."""

import csv
import json
import time
from pathlib import Path
from typing import Any

from comparing.choices import beaten
from comparing.figure import draw
from comparing.rows import Row, Run, curve, teacher_row
from decm.report.table import TITLES

CURVES = ("fd/1", "fd/4")  # against the cost, where they were taken in the loop
DIGITS = {"frechet_distance": 3, "sliced_wasserstein": 4}  # of the metric


def described(
    command: str, rows: list[Row], runs: dict[str, dict[int, Run]], reference: str, **more: Any
) -> dict[str, Any]:
    """The document of rows and of the runs behind them, with the teacher as the first row."""
    first = next(iter(next(iter(runs.values())).values()))
    teacher, evaluation = teacher_row(first), first.config["evaluation"]
    curves = {name: {metric: curve(found, metric) for metric in CURVES} for name, found in runs.items()}
    return {
        "command": command,
        "date": time.strftime("%Y-%m-%d"),
        "experiment": first.config["name"],
        **{key: first.results[key] for key in ("metric", "reference", "num_samples", "floor")},
        **more,
        "rows": [*([teacher] if teacher else []), *rows],
        "paired": beaten(reference, runs),
        "loop_num_samples": evaluation["every_num_samples"],
        "curves": curves,
    }


def write(out: Path, document: dict[str, Any], notes: list[str]) -> None:
    """`out`.json, .md, .csv, .png and .svg of a document, with notes beneath its table, which is shown."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(markdown(document, notes), encoding="utf-8")
    write_csv(out.with_suffix(".csv"), document["rows"])
    draw(out, document)
    print("\n".join(["", table(document["rows"], document["metric"]), "", *notes, f"{out}.md .csv .json .png .svg"]))


def measured(rows: list[Row], key: str = "nfe") -> list[str]:
    """The columns of a row's part, over all rows."""
    return list(dict.fromkeys(name for row in rows for name in row.get(key, {})))


def cells(rows: list[Row], key: str, digits: int) -> list[list[str]]:
    """`mean ± error` for each row and column, the best student of a column in bold."""
    columns = measured(rows, key)
    table = []
    for row in rows:
        line = []
        for column in columns:
            value = row.get(key, {}).get(column)
            if value is None:
                line.append("failed" if "failed" in row else "")
                continue
            students = [r[key][column]["mean"] for r in rows if column in r.get(key, {}) and r["name"] != "teacher"]
            text = f"{value['mean']:.{digits}f}"
            text += f" ± {value['sem']:.{digits}f}" if len(row["seeds"]) > 1 else ""
            best = row["name"] != "teacher" and value["mean"] == min(students)
            line.append(f"**{text}**" if best else text)
        table.append(line)
    return table


def _grid(header: list[str], lines: list[list[str]], left: int = 1) -> list[str]:
    return [
        f"| {' | '.join(header)} |",
        f"|{' --- |' * left}{' ---: |' * (len(header) - left)}",
        *(f"| {' | '.join(line)} |" for line in lines),
    ]


def table(rows: list[Row], metric: str) -> str:
    """Markdown: a row for each method, with its cost and samplers."""
    nfes = measured(rows)
    values = cells(rows, "nfe", DIGITS.get(metric, 3))
    lines = [
        [
            title(row),
            *line,
            number(row, "forward_equivalents", ".3g"),
            number(row, "steps", ",.0f"),
            number(row, "forward_equivalents_per_sample", ".1f"),
            "; ".join(row["samplers"].get(nfe, "") for nfe in nfes) if "samplers" in row else "",
        ]
        for row, line in zip(rows, values, strict=True)
    ]
    header = ["trained with", *(f"NFE {nfe}" for nfe in nfes), "forward-equivalents", "steps", "a sample", "samplers"]
    return "\n".join(_grid(header, lines))


def title(row: Row) -> str:
    return str(row.get("title") or row["name"])


def number(row: Row, key: str, how: str) -> str:
    return f"{row[key]:{how}}" if row.get(key) is not None else ""


def markdown(document: dict[str, Any], notes: list[str]) -> str:
    """The tables of a document: the metric, the maps' errors where they are known, and how each method was tuned."""
    rows, metric = document["rows"], document["metric"]
    what = TITLES.get(metric, metric)
    lines = [
        f"# {document.get('experiment', '')}: {what}",
        "",
        f"{what} of {document['num_samples']:,} samples to {document['reference']}; lower is better. Mean and standard "
        "error over seeds, the best in bold; forward-equivalents of student and teacher, in all and for each sample "
        f"of the training. Measured on {document['date']} with `{document['command']}`.",
        "",
        table(rows, metric),
    ]
    for note in notes:
        lines += ["", note]
    if any("map_error" in row for row in rows):
        known = [row for row in rows if "map_error" in row]
        header = ["RMS error per dimension against the exact flow", *measured(known, "map_error")]
        parts = zip(known, cells(known, "map_error", 4), strict=True)
        lines += ["", *_grid(header, [[title(row), *line] for row, line in parts])]
    if any(row.get("tuning") for row in rows):
        lines += ["", "## Tuning", "", document["tuning"]["what"], "", *tuning_table(rows)]
    return "\n".join(lines) + "\n"


def tuning_table(rows: list[Row]) -> list[str]:
    """What was tried for each method, the chosen one in bold."""
    lines = []
    for row in rows:
        for tried in row.get("tuning", []):
            score = "failed" if tried["score"] is None else f"{tried['score']:.4f}"
            overrides = ", ".join(f"`{o}`" for o in tried["overrides"]) or "as it is"
            lines.append([title(row), overrides, f"**{score}**" if tried["chosen"] else score])
    return _grid(["method", "candidate", "score"], lines, left=2)


def write_csv(path: Path, rows: list[Row]) -> None:
    """One line a row; an NFE's mean and standard error are columns."""
    flat = []
    for row in rows:
        line = {"name": row["name"]}
        for key in ("nfe", "map_error", "accuracy"):
            for column, value in row.get(key, {}).items():
                line |= {f"{key}_{column}": value["mean"], f"{key}_{column}_sem": value["sem"]}
        for key in ("forward_equivalents", "steps", "forward_equivalents_per_sample"):
            line[key] = row.get(key)
        line["seeds"] = " ".join(map(str, row["seeds"]))
        line["samplers"] = " ".join(row.get("samplers", {}).values())
        flat.append(line | {"failed": len(row.get("failed", {}))})
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for line in flat for key in line)))
        writer.writeheader()
        writer.writerows(flat)
