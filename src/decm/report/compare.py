"""The page of several runs beside each other."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from decm.evaluation.titles import PER_NFE, judge_note
from decm.report.charts import Chart, Line, color_of, dash_of, draw
from decm.report.page import (
    BYTES,
    Picture,
    by_steps,
    comparison_of,
    metric_of,
    names_of_classes,
    render,
    steps_title,
)
from decm.report.pictures import Embedded, embed, embed_file, layout_of, rows_of
from decm.runs.run import Run, Series, varying_settings

HIGHER_IS_BETTER = ("is", "accuracy", "precision", "recall")  # of PER_NFE; of all else less is better
FIRST = ("loss/", "fd/", "tangent/", "map_error/")  # the order of curves
# Of results.json.
JUDGED_BY = {"metric": "metrics", "reference": "references", "data": "data", "num_samples": "numbers of samples"}
LEGEND = {"grad_norm": "gradient norm", "speed/samples_per_s": "throughput, samples a second"}


def compare(runs: Sequence[Run]) -> str:
    """The page: scores with the best in bold, curves on one axis, the same seeds, and in what the settings differ."""
    names = names_of([run.folder for run in runs])
    metrics = sorted({metric_of(run.scores) for run in runs if run.scores})
    nfes = sorted({int(nfe) for run in runs for nfe in run.scores.get("student", {})})
    classes = int((runs[0].config.get("network") or {}).get("num_classes", 0)) if _agree(runs, "data") else 0
    unlike, same_noise = unlike_in(runs), _agree(runs, "data") and len(set(map(_seed, runs))) == 1
    return render(
        "compare.html",
        title=f"{len(runs)} runs",
        runs=list(zip(names, runs, strict=True)),
        metrics=metrics,
        unlike=unlike,
        notes=[note for note in dict.fromkeys(judge_note(run.scores) for run in runs) if note],
        keys=[(color_of(k), dash_of(k)) for k in range(len(runs))],
        tables=tables(runs, nfes, not unlike),
        nfes=nfes,
        quality=None if unlike else quality(names, runs, metrics),
        charts=curves(names, runs),
        pictures=pictures(names, runs, nfes),
        same_data=_agree(runs, "data"),
        same_noise=same_noise,
        columns=max((_columns(run) for run in runs), default=0),
        classes=classes,
        names=names_of_classes(runs[0], classes),
        changes=varying_settings([run.config for run in runs]),
    )


def unlike_in(runs: Sequence[Run]) -> list[str]:
    """By what the runs were judged differently, so that their figures do not compare, with what was found."""
    found = {
        name: dict.fromkeys(str(run.scores.get(key)) for run in runs if run.scores) for key, name in JUDGED_BY.items()
    }
    titles = {"metrics": dict.fromkeys(metric_of(run.scores) for run in runs if run.scores)}
    return [f"{name} ({'; '.join(titles.get(name, values))})" for name, values in found.items() if len(values) > 1]


def _agree(runs: Sequence[Run], key: str) -> bool:
    return all(run.config.get(key) == runs[0].config.get(key) for run in runs)


def _seed(run: Run) -> str:
    return str((run.config.get("evaluation") or {}).get("seed"))


def names_of(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that distinguish the folders."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"Found a run twice among {', '.join(map(str, folders))}; expected different run folders.")


def best(values: Sequence[float | None], higher: bool = False) -> list[bool]:
    """Which of the values are the best, of which a value that is not finite never is; none where they are alike."""
    known = [value for value in values if value is not None]
    finite = [value for value in known if math.isfinite(value)]
    if not finite or len(set(known)) < 2:
        return [False] * len(values)
    top = max(finite) if higher else min(finite)
    return [value == top for value in values]


Cell = tuple[str, bool]  # what is written, whether it is the best


def tables(runs: Sequence[Run], nfes: Sequence[int], comparable: bool) -> list[tuple[str, list[list[Cell]]]]:
    """(title, cells by run and NFE) of the metric and of each further score that a run has."""
    found = []
    for key, digits in {"student": 3, **PER_NFE}.items():
        columns = []
        for nfe in nfes:
            values = [run.scores.get(key, {}).get(str(nfe)) for run in runs]
            marks = best(values if comparable else [None] * len(runs), key in HIGHER_IS_BETTER)
            columns.append(
                [("" if v is None else f"{v:.{digits}f}", mark) for v, mark in zip(values, marks, strict=True)]
            )
        if any(text for column in columns for text, _ in column):
            found.append((key, [list(row) for row in zip(*columns, strict=True)]))
    return found


def quality(names: Sequence[str], runs: Sequence[Run], metrics: Sequence[str]) -> Chart | None:
    """The metric against the number of steps, a line a run; None where there is none."""
    if not metrics:
        return None
    lines, places = [], set()
    for k, (name, run) in enumerate(zip(names, runs, strict=True)):
        points = by_steps(run.scores.get("student"))
        places |= {nfe for nfe, _ in points}
        lines.append(
            Line(
                name,
                [nfe for nfe, _ in points],
                [value for _, value in points],
                color_of(k),
                marked=True,
                dash=dash_of(k),
            )
        )
    about = "Lower is better."
    return draw(f"{metrics[0]} against network steps", lines, about, "network steps", steps=sorted(places))


def curves(names: Sequence[str], runs: Sequence[Run]) -> list[Chart]:
    """A chart for each logged figure that two runs or more have, a line a run."""
    logged = [run.metrics() for run in runs]
    shared = [
        name for name in dict.fromkeys(n for one in logged for n in one) if sum(name in one for one in logged) > 1
    ]

    def rank(name: str) -> int:
        return next((k for k, prefix in enumerate(FIRST) if name.startswith(prefix)), len(FIRST))

    charts = []
    for figure in sorted(shared, key=rank):
        lines = []
        for k, (name, one) in enumerate(zip(names, logged, strict=True)):
            series, marked = one.get(figure, Series()), figure.startswith(("fd/", "map_error/"))
            lines.append(
                Line(name, series.steps, series.values, color_of(k), not marked, marked=marked, dash=dash_of(k))
            )
        title = LEGEND.get(figure) or figure.replace("fd/", "distance, NFE ").replace("/", ", ").replace("_", " ")
        charts.append(draw(title[0].upper() + title[1:], lines, log_y=not figure.startswith("speed/")))
    return [chart for chart in charts if chart is not None]


def pictures(names: Sequence[str], runs: Sequence[Run], nfes: Sequence[int]) -> list[tuple[int, list[Picture]]]:
    """(NFE, a row of the same seeds for each run) for each NFE; on top the teacher's row, if all have the same one."""
    known = [_rows(run) for run in runs]
    limit = BYTES // max(1, len(nfes) * (len(runs) + 1))
    same = _agree(runs, "data") and _agree(runs, "teacher")
    teachers = [(title, make) for rows in known for title, make in rows.items() if title.startswith("teacher")][:same]
    found = []
    for nfe in nfes:
        shown = [Picture(f"{title} steps", make(limit)) for title, make in teachers]
        for name, rows in zip(names, known, strict=True):
            if steps_title(nfe) in rows:
                shown.append(Picture(name, rows[steps_title(nfe)](limit)))
        if len(shown) > len(teachers):
            found.append((nfe, shown))
    return found


def _rows(run: Run) -> dict[str, Callable[[int], Embedded]]:
    """{title: picture within a limit of bytes}: rows of the comparison, else the whole grids."""
    path = comparison_of(run)
    rows = rows_of(path) if path is not None else {}
    if rows:
        return {title: lambda limit, row=row: embed(row, limit) for title, row in rows.items()}  # type: ignore[misc]
    grids = {steps_title(p.stem.removeprefix("samples_nfe")): p for p in run.folder.glob("samples_nfe*.png")}
    return {title: lambda limit, path=path: embed_file(path, limit) for title, path in grids.items()}  # type: ignore[misc]


def _columns(run: Run) -> int:
    path = comparison_of(run)
    layout = layout_of(path) if path is not None else None
    return int(layout["columns"]) if layout else 0
