"""The figure of a comparison: the metric against the number of steps, and against what the training cost."""

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from comparing.rows import Row
from decm.report.table import TITLES

MARKERS = "osD^vP*X<>"
PLAIN = LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5))


def draw(out: Path, document: dict[str, Any]) -> None:
    """`out`.png and .svg."""
    rows, curves = document["rows"], document.get("curves", {})
    metrics = list(dict.fromkeys(metric for found in curves.values() for metric in found if found[metric]))
    students = [row["name"] for row in rows if row["name"] != "teacher"]
    looks = {
        name: {"color": f"C{k % 10}", "marker": MARKERS[(k + k // 10) % 10], "linestyle": "-" if k < 10 else ":"}
        for k, name in enumerate(students)
    }
    looks["teacher"] = {"color": "black", "marker": "", "linestyle": "--"}
    with rc_context({"svg.hashsalt": "decm", "font.size": 9}):
        figure = Figure(figsize=(4.6 * (1 + len(metrics)), 4.2), layout="constrained")
        axes = figure.subplots(1, 1 + len(metrics), squeeze=False)[0]
        what = TITLES.get(document["metric"], document["metric"])
        against_steps(axes[0], rows, looks)
        axes[0].set_ylabel(what)
        axes[0].set_title(f"at the end, {document['num_samples']:,} samples")
        for axis, metric in zip(axes[1:], metrics, strict=True):
            against_cost(axis, rows, curves, metric, looks)
            axis.set_title(f"NFE {metric.removeprefix('fd/')}, {document['loop_num_samples']:,} samples")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False)
        figure.savefig(out.with_suffix(".png"), dpi=150, metadata={"Software": None})
        figure.savefig(out.with_suffix(".svg"), metadata={"Date": None})


def against_steps(axis: Axes, rows: list[Row], looks: dict[str, Any]) -> None:
    """The metric against the network steps of a sample, one line a method."""
    for row in rows:
        if row["nfe"]:
            values = list(row["nfe"].values())
            axis.errorbar(
                [int(nfe) for nfe in row["nfe"]],
                [v["mean"] for v in values],
                [v["sem"] for v in values],
                label=row.get("title") or row["name"],
                markersize=4,
                linewidth=1.2,
                capsize=2,
                **looks[row["name"]],
            )
    ticks = sorted({int(nfe) for row in rows for nfe in row["nfe"]})
    axis.set(xscale="log", yscale="log", xlabel="network steps (NFE)")
    axis.yaxis.set_major_formatter(PLAIN)
    axis.yaxis.set_minor_formatter(PLAIN)
    axis.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axis.xaxis.minorticks_off()
    axis.grid(alpha=0.3)


def against_cost(axis: Axes, rows: list[Row], curves: dict[str, Any], metric: str, looks: dict[str, Any]) -> None:
    """A metric of the loop against the cost up to there, one line a method."""
    for row in rows:
        points = curves.get(row["name"], {}).get(metric)
        if points:
            axis.errorbar(
                [p["forward_equivalents"] for p in points],
                [p["mean"] for p in points],
                [p["sem"] for p in points],
                markersize=4,
                linewidth=1.2,
                capsize=2,
                **looks[row["name"]],
            )
    axis.set(xscale="log", yscale="log", xlabel="forward-equivalents of the training")
    axis.yaxis.set_major_formatter(PLAIN)
    axis.yaxis.set_minor_formatter(PLAIN)
    axis.grid(alpha=0.3, which="both")
