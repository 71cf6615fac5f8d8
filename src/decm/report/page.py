"""The page of a run: one HTML file with all that it shows, for any browser, without a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decm import __version__
from decm.evaluation.titles import TITLES
from decm.report.charts import Chart, Line, color_of, dash_of, draw
from decm.report.pictures import Embedded, embed, embed_file, embed_moving, grid_of, layout_of, rows_of
from decm.report.table import notes, table_rows
from decm.runs.run import Run, Series

TEMPLATES = Path(__file__).parent / "templates"
PAGE = "report.html"
BYTES = 2_400_000  # of all pictures of a page together, before they are written as text; moving ones aside
MOVING, MOVING_BYTES = "flow.webp", 1_500_000
SHOWN_INCIDENTS = 20
SECONDS = {"teacher": "training the teacher", "distill": "distillation", "evaluate": "evaluation"}


@dataclass(frozen=True)
class Picture:
    """A picture with its title, and the number of samples in a row where it is a row of them."""

    title: str
    image: Embedded


def render(template: str, **context: Any) -> str:
    """A template with its context; all that is no markup of ours is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(version=__version__, **context)


def page(run: Run) -> str:
    """report.html of a run, also of one that is not finished."""
    metrics = run.metrics()
    scores, nfes = run.scores, nfes_of(run)
    samples = same_seeds(run, BYTES * 3 // 8)
    classes = int((run.config.get("network") or {}).get("num_classes", 0))
    incidents, moving = run.incidents(), embed_moving(run.folder / MOVING, MOVING_BYTES)
    return render(
        "run.html",
        run=run,
        scores=scores,
        title=run.name,
        nfes=nfes,
        table=table_rows(scores) if scores else None,
        notes=notes(scores)[:-1] if scores else [],
        metric=metric_of(scores),
        best=best_of(scores),
        teacher=teacher_of(scores),
        figures=headline_figures(run, metrics),
        step=run.last_step(),
        quality=quality(scores),
        charts=curves(metrics, run),
        rows=samples,
        columns=columns_of(run),
        classes=classes,
        names=names_of_classes(run, classes),
        grids=grids(run, nfes, BYTES * 3 // 8),
        moving=moving,
        left_out=MOVING if moving is None and (run.folder / MOVING).is_file() else "",
        most=f"{MOVING_BYTES / 1e6:g} MB",
        changes=run.changes(),
        commands=run.commands(),
        incidents=incidents[:SHOWN_INCIDENTS],
        num_incidents=len(incidents),
        rollbacks=run.rollbacks(),
    )


def names_of_classes(run: Run, classes: int) -> list[str]:
    """What the classes are called; [] where that is unknown or of other data than the network's."""
    names = run.class_names()
    return names if len(names) == classes else []


def nfes_of(run: Run) -> list[int]:
    """The numbers of steps that a run is evaluated at."""
    return [int(nfe) for nfe in (run.config.get("evaluation") or {}).get("nfe", [])]


def steps_title(nfe: int | str) -> str:
    """As the rows of comparison.png are called."""
    return f"{nfe} step{'s' if int(nfe) > 1 else ''}"


def metric_of(scores: dict[str, Any]) -> str:
    """The metric's name, as a title begins."""
    name = TITLES.get(scores.get("metric", ""), "metric")
    return name[0].upper() + name[1:]


def best_of(scores: dict[str, Any]) -> tuple[int, float] | None:
    """The fewest steps and the student's (else the teacher's) metric there."""
    return next(iter(by_steps(scores.get("student") or scores.get("teacher"))), None)


def teacher_of(scores: dict[str, Any]) -> tuple[int, float] | None:
    """The most steps and the teacher's metric there, beside a student's."""
    return next(reversed(by_steps(scores.get("teacher"))), None) if scores.get("student") else None


def by_steps(values: dict[str, float] | None) -> list[tuple[int, float]]:
    """(NFE, figure), the fewest steps first, whatever the order in which they were asked for."""
    return sorted((int(nfe), value) for nfe, value in (values or {}).items())


def headline_figures(run: Run, metrics: dict[str, Series]) -> list[tuple[str, str]]:
    """Figures about the run itself: size, speed, time, cost."""
    found, results = [], run.results or {}
    if run.parameters:
        found.append(("parameters", f"{run.parameters:,}"))
    speed = metrics.get("speed/samples_per_s")
    if speed:
        middle = sorted(speed.values)[len(speed.values) // 2]
        found.append(("samples a second", f"{middle:,.0f}"))
    for name, value in results.get("seconds", {}).items():
        if name == "teacher" and results.get("teacher_reused"):
            found.append(("teacher", "reused"))
        elif name != "teacher" or value >= 0.5:  # else there was none to train
            found.append((SECONDS.get(name, name), f"{value:,.0f} s"))
    if "forward_equivalents" in results:
        found.append(("forward-equivalents", f"{results['forward_equivalents']:,.0f}"))
    return found


def quality(scores: dict[str, Any]) -> Chart | None:
    """The metric against the number of steps: student, teacher and floor."""
    nfes = [nfe for nfe, _ in by_steps(scores.get("student") or scores.get("teacher"))]
    lines = []
    for who, color in (("student", "s1"), ("teacher", "muted")):
        points = by_steps(scores.get(who))
        lines.append(Line(who, [nfe for nfe, _ in points], [value for _, value in points], color, marked=True))
    floor = (scores.get("floor") or {}).get("value")
    if floor is not None and nfes:
        lines.append(Line("floor", [min(nfes), max(nfes)], [floor, floor], "muted", level=True, dash="dashed"))
    return draw(f"{metric_of(scores)} against network steps", lines, "Lower is better.", "network steps", steps=nfes)


def curves(metrics: dict[str, Series], run: Run) -> list[Chart]:
    """What was logged in the training, a chart for each kind."""
    number = (run.config.get("evaluation") or {}).get("every_num_samples", "?")

    def lines(prefix: str, noisy: bool = True) -> list[Line]:
        names = [name for name in metrics if name.startswith(prefix)]
        return [
            Line(
                _title(name.removeprefix(prefix)),
                metrics[name].steps,
                metrics[name].values,
                color_of(k),
                noisy,
                dash=dash_of(k),
            )
            for k, name in enumerate(names)
        ]

    def one(name: str, title: str) -> list[Line]:
        series = metrics.get(name, Series())
        return [Line(title, series.steps, series.values, "s1", noisy=True)]

    in_loop = [
        Line(f"NFE {line.name}", line.x, line.y, line.color, marked=True, dash=line.dash)
        for line in lines("fd/", noisy=False)
    ]
    charts = [
        draw("Loss", lines("loss/"), "Of each segment, a batch."),
        draw("Tangent norm", lines("tangent/"), "How far each segment's target is from the prediction."),
        draw("Distance in the loop", in_loop, f"Of {number} samples of the average; the table has more of them."),
        draw("Map error in the loop", lines("map_error/", noisy=False), "RMS a dimension, against the exact flow."),
        draw("Gradient norm", one("grad_norm", "gradient norm"), "Before clipping."),
        draw("Throughput", one("speed/samples_per_s", "samples a second"), "All devices together.", log_y=False),
    ]
    return [chart for chart in charts if chart is not None]


def _title(name: str) -> str:
    return name.replace("_", " ")


def comparison_of(run: Run) -> Path | None:
    """comparison.png, or the newest preview of a run that has none yet."""
    whole = run.folder / "comparison.png"
    previews = sorted((run.folder / "previews").glob("step_*.png"))
    return whole if whole.is_file() else previews[-1] if previews else None


def same_seeds(run: Run, limit: int) -> list[Picture]:
    """The same seeds at each NFE under the teacher's: row by row, or as one plot where there are no rows."""
    path = comparison_of(run)
    if path is None:
        return []
    rows = rows_of(path)
    if not rows:
        return [Picture("", embed_file(path, limit))]
    return [Picture(title, embed(row, limit // len(rows))) for title, row in rows.items()]


def columns_of(run: Run) -> int:
    """Samples in a row of the comparison, 0 where it has no rows."""
    path = comparison_of(run)
    layout = layout_of(path) if path is not None else None
    return int(layout["columns"]) if layout else 0


def grids(run: Run, nfes: Sequence[int], limit: int) -> list[tuple[int, Picture]]:
    """(NFE, the grid of many samples) for each NFE that has one."""
    paths = {nfe: run.folder / f"samples_nfe{nfe}.png" for nfe in nfes}
    there = {nfe: path for nfe, path in paths.items() if path.is_file()}
    found = []
    for nfe, path in there.items():
        grid, share = grid_of(path), limit // len(there)
        image = embed(grid, share) if grid is not None else embed_file(path, share)
        found.append((nfe, Picture(steps_title(nfe), image)))
    return found
