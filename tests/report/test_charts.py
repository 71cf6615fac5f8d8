"""Charts follow the page's colors, draw what can be drawn, and keep their names to themselves."""

import re

import pytest

from decm.report.charts import COLORS, DASHES, POINTS, Line, color_of, dash_of, draw, drawable, smooth


def line(y, name="a", **options):
    return Line(name, range(len(y)), y, "s1", **options)


def ids(svg):
    return re.findall(r'id="([^"]+)"', svg)


def test_colors_are_the_pages_variables_and_nothing_else():
    chart = draw("T", [line([1.0, 2.0, 3.0]), Line("b", [0, 1], [2.0, 1.0], "s2", level=True, dash="dashed")])
    assert {"s1", "s2", "muted", "line"} <= set(re.findall(r"var\(--(\w+)\)", chart.svg))
    assert re.findall(r"(?:fill|stroke): #(?!0{6})\w+", chart.svg) == []
    assert "#fe01" not in chart.svg
    assert chart.legend == [("s1", "a", ""), ("s2", "b", "dashed")]


def test_labels_are_text_with_a_name_for_readers_of_the_screen():
    chart = draw("A & <b>", [line([1.0, 2.0])], about="About.", x_label="step $x_1$")
    assert 'aria-label="A &amp; &lt;b&gt;. About."' in chart.svg
    assert "step $x_1$</text>" in chart.svg
    assert "font-family" not in chart.svg


def test_two_charts_of_a_page_share_no_name():
    one, other = (draw(title, [line([1.0, 2.0])]).svg for title in ("One", "Other"))
    assert ids(one)
    assert not set(ids(one)) & set(ids(other))
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', one))
    assert {a or b for a, b in used} <= set(ids(one))


def test_nothing_to_draw_is_no_chart():
    assert draw("T", []) is None
    assert draw("T", [line([float("nan"), float("inf")])]) is None
    assert draw("T", [line([0.0, -1.0])]) is None  # nothing on a logarithmic axis
    assert draw("T", [line([0.0, -1.0])], log_y=False) is not None


def test_points_that_are_no_numbers_are_left_out():
    assert drawable(line([1.0, float("nan"), 3.0, -1.0]), log_y=True) == ([0, 2], [1.0, 3.0])
    assert drawable(line([1.0, -1.0]), log_y=False) == ([0, 1], [1.0, -1.0])


def test_long_lines_are_averaged_so_that_the_chart_stays_small():
    x, y = drawable(line([float(k) for k in range(1, 10 * POINTS + 1)]), log_y=True)
    assert len(x) == len(y) == POINTS
    assert (x[0], y[0]) == (4.5, 5.5)
    noisy = [1.0 + k % 7 for k in range(100_000)]
    assert len(draw("T", [line(noisy, noisy=True)] * 4).svg) < 100_000


@pytest.mark.parametrize("num", [1, 2, 50])
def test_smoothing_keeps_constants_and_slopes(num):
    assert smooth([2.0] * num) == [2.0] * num
    slope = smooth([float(k) for k in range(num)])
    assert slope[num // 2] == pytest.approx(num // 2, abs=0.51)


def test_colors_repeat_after_the_last_with_another_dash():
    assert [color_of(k) for k in (0, len(COLORS))] == ["s1", "s1"]
    keys = [(color_of(k), dash_of(k)) for k in range(len(COLORS) * len(DASHES))]
    assert len(set(keys)) == len(keys)
    assert {dash for _, dash in keys[: len(COLORS)]} == {""}
    drawn = [draw("T", [line([1.0, 2.0], dash=dash)]) for dash in DASHES]
    assert [chart.svg.count("stroke-dasharray") for chart in drawn] == [0, 1, 1]
    assert [chart.legend[0][2] for chart in drawn] == list(DASHES)
