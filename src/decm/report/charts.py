"""Charts as inline SVG whose colors are CSS variables of the page, so that they follow light and dark."""

import html
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

POINTS = 240  # a line has at most; longer ones are averaged in bins
SMOOTH_FROM = 30  # points from which on a noisy line is drawn pale, with its running mean upon it
COLORS = ("s1", "s2", "s3", "s4", "s5", "s6")
DASHES: dict[str, Any] = {"": "solid", "dashed": (0, (4, 3)), "dotted": (0, (1, 1.5))}  # by their class in a page
# Stand-ins that matplotlib writes, in place of which the page's variables are put.
STAND_IN = {name: f"#fe01{k:02x}" for k, name in enumerate(("ink", "muted", "line", *COLORS))}
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "decm",
    "text.parse_math": False,
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": STAND_IN["line"],
    "axes.labelcolor": STAND_IN["muted"],
    "xtick.labelcolor": STAND_IN["muted"],
    "ytick.labelcolor": STAND_IN["muted"],
    "grid.color": STAND_IN["line"],
    "grid.linewidth": 0.6,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    **{f"{axis}tick.{which}.size": 0 for axis in "xy" for which in ("major", "minor")},
}


@dataclass(frozen=True)
class Line:
    """A line of a chart; `color` names a variable of the page, `noisy` lines are smoothed, `level` ones thin."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    color: str
    noisy: bool = False
    level: bool = False
    marked: bool = False
    dash: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart for the page: its title, what it is about, the legend [(color, name, dash)] and the SVG."""

    title: str
    about: str
    legend: list[tuple[str, str, str]]
    svg: str


def color_of(number: int) -> str:
    """The variable of the color of line `number`."""
    return COLORS[number % len(COLORS)]


def dash_of(number: int) -> str:
    """The dash of line `number`, another one each time that the colors begin again."""
    return list(DASHES)[number // len(COLORS) % len(DASHES)]


def drawable(line: Line, log_y: bool) -> tuple[list[float], list[float]]:
    """The points of a line that can be drawn, averaged in bins where there are more than POINTS of them."""
    kept = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y) and (y > 0 or not log_y)]
    size = -(-len(kept) // POINTS) if kept else 1
    bins = [kept[k : k + size] for k in range(0, len(kept), size)]
    return [sum(x for x, _ in part) / len(part) for part in bins], [
        sum(y for _, y in part) / len(part) for part in bins
    ]


def smooth(values: Sequence[float]) -> list[float]:
    """The running mean over about a fifteenth of the values on both sides together; constants stay."""
    reach = max(1, len(values) // 30)
    windows = [values[max(0, k - reach) : k + reach + 1] for k in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def draw(
    title: str,
    lines: Sequence[Line],
    about: str = "",
    x_label: str = "optimizer step",
    log_y: bool = True,
    steps: Sequence[int] = (),
) -> Chart | None:
    """A chart of the lines that have points; None where none has. `steps`: the places of a logarithmic x axis."""
    found = [(line, *drawable(line, log_y)) for line in lines]
    shown = [(line, x, y) for line, x, y in found if x]
    if not shown:
        return None
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

        figure = Figure(figsize=(4.6, 2.5), layout="constrained")
        figure.patch.set_visible(False)
        axis = figure.subplots()
        axis.patch.set_visible(False)
        for line, x, y in shown:
            _plot(axis, line, x, y)
        if log_y:
            axis.set_yscale("log")
            _log_ticks(axis, [value for _, _, y in shown for value in y])
        else:
            axis.set_ylim(bottom=0)
            axis.yaxis.set_major_formatter(EngFormatter(sep=""))
        if steps:
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(FixedLocator(list(steps)))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        else:
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.set_xlabel(x_label)
        svg = _render(figure, f"{title}. {about}".strip(), title)
    return Chart(title, about, [(line.color, line.name, line.dash) for line, _, _ in shown], svg)


def _plot(axis: Any, line: Line, x: list[float], y: list[float]) -> None:
    color, dash = STAND_IN[line.color], DASHES[line.dash]
    if line.level:
        axis.plot(x, y, color=color, linewidth=1.1, linestyle=dash)
    elif line.noisy and len(x) >= SMOOTH_FROM:
        axis.plot(x, y, color=color, linewidth=0.7, alpha=0.3)
        axis.plot(x, smooth(y), color=color, linewidth=1.5, linestyle=dash)
    else:
        marker = "o" if line.marked or len(x) < SMOOTH_FROM else ""
        axis.plot(x, y, color=color, linewidth=1.5, linestyle=dash, marker=marker, markersize=3)


def _log_ticks(axis: Any, values: Sequence[float]) -> None:
    """1, 2 and 5 of each decade where there are few decades, in plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    decades = math.log10(max(values) / min(values))
    subs: tuple[int, ...] = (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 2.5 else (1,)
    if decades < 0.6:
        subs = tuple(range(1, 10))
    axis.yaxis.set_major_locator(LogLocator(subs=subs))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _render(figure: Any, label: str, name: str) -> str:
    """The SVG element alone, with variables for colors and names of its own, for a page that may hold others."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)  # they would be the page's
    for variable, color in STAND_IN.items():
        text = text.replace(color, f"var(--{variable})")
    text = re.sub(r"font-size: ([\d.]+)px; font-family: [^;\"]*;?", r"font-size: \1px;", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*;?", r"font-size: \1px;", text)
    own = re.sub(r"\W+", "-", name).lower()
    text = re.sub(r"<g id=\"[^\"]*\">", "<g>", text)
    text = re.sub(r"(id=\"|href=\"#|url\(#)", rf"\g<1>{own}-", text)
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", text)
    text = re.sub(r"^<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', text)
    return re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
