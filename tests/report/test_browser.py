"""The page of a real run in a real browser: it is whole, readable at any width and color, and the keyboard moves it."""

import shutil

import pytest
from PIL import Image

from browser import chromium, faint, opened, overflow, shown, undecoded
from decm.report.compare import compare
from decm.report.page import MOVING
from decm.report.page import page as render_page
from run_folders import CONFIG, RESULTS, make_run


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser, finished):
    with opened(browser, finished.folder / "report.html") as shown_page:
        yield shown_page


def test_the_page_complains_of_nothing_asks_no_network_and_shows_all_pictures(page):
    assert undecoded(page) == []
    assert page.complaints == []
    assert page.locator("img").count() == 3 + 2  # teacher, 1 step and 2 steps of the same seeds; two grids
    assert page.locator("svg").count() >= 4
    assert page.locator("h1").inner_text() == "smoke"
    assert page.locator(".state").inner_text() == "finished"


def test_what_is_broken_is_seen(browser, finished, tmp_path):
    """The negative controls: a picture cut off, a picture on a network, a script that fails, a line too wide."""
    text = (finished.folder / "report.html").read_text()
    start = text.index("data:image/png;base64,")
    broken = text[: start + 60] + text[text.index('"', start) :]
    more = '<img alt="far" src="http://localhost:9/a.png"><p style="width:3000px; max-width:none">wide</p>'
    more += '<script>throw Error("no")</script><p style="color:#ccc">pale</p></main>'
    (tmp_path / "broken.html").write_text(broken.replace("</main>", more))
    with opened(browser, tmp_path / "broken.html") as page:
        assert len(undecoded(page)) == 2
        assert len(page.complaints) >= 2  # the page's own rule forbids both
        assert overflow(page) > 1000
        assert [words for _, _, words in faint(page)] == ["pale"]


def test_the_switch_shows_the_grid_that_is_clicked(page):
    assert shown(page, ".panel") == ["Grid of samples, 1 step"]
    page.get_by_text("2", exact=True).and_(page.locator("label")).click()
    assert shown(page, ".panel") == ["Grid of samples, 2 steps"]


def test_the_keyboard_reaches_the_switch_and_moves_it(page):
    """Tab until the switch has the focus, which can be seen; then the arrows."""
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "nfe":
            break
    assert page.evaluate("document.activeElement.id") == "nfe-1"
    outline = "getComputedStyle(document.querySelector('input:checked + label')).outlineStyle"
    assert page.evaluate(outline) == "solid"
    page.keyboard.press("ArrowRight")
    assert shown(page, ".panel") == ["Grid of samples, 2 steps"]
    page.keyboard.press("ArrowLeft")
    assert shown(page, ".panel") == ["Grid of samples, 1 step"]
    page.mouse.click(5, 5)
    assert page.evaluate(outline) == "none"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_is_readable_at_any_width_in_light_and_dark(browser, finished, width, scheme):
    with opened(browser, finished.folder / "report.html", width, scheme) as page:
        assert overflow(page) == 0
        assert faint(page) == []
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, ground[4:-1].split(","))) < 200) == (scheme == "dark")


def test_a_wide_table_scrolls_in_a_box_of_its_own_and_by_keyboard(browser, finished, tmp_path):
    text = (finished.folder / "report.html").read_text().replace(">sampler<", f">{'x' * 200}<")
    (tmp_path / "wide.html").write_text(text)
    with opened(browser, tmp_path / "wide.html", 400) as page:
        box = page.locator(".scroll").first
        assert overflow(page) == 0
        assert box.evaluate("e => e.scrollWidth - e.clientWidth") > 100
        box.focus()
        page.keyboard.press("ArrowRight")
        for _ in range(100):
            page.wait_for_timeout(20)
            if box.evaluate("e => e.scrollLeft") > 0:
                break
        else:
            pytest.fail("the arrow did not scroll the table")


def test_the_page_is_one_file_of_less_than_five_megabytes(finished, browser, tmp_path):
    """It is the same anywhere."""
    page = shutil.copy(finished.folder / "report.html", tmp_path / "elsewhere.html")
    assert page.stat().st_size < 5_000_000
    with opened(browser, page) as shown_page:
        assert undecoded(shown_page) == []


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A page of two runs that differ in scores, settings and pictures."""
    folder = tmp_path_factory.mktemp("compared")
    other = {**RESULTS, "student": {"1": 1.0, "2": 2.0}}
    runs = [make_run(folder / "a"), make_run(folder / "b", {**CONFIG, "seed": 4}, results=other, seed=1)]
    (folder / "compare.html").write_text(compare(runs))
    return folder / "compare.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_a_comparison_is_whole_and_readable(browser, compared, width, scheme):
    with opened(browser, compared, width, scheme) as page:
        assert undecoded(page) == []
        assert page.complaints == []
        assert overflow(page) == 0
        assert faint(page) == []


def test_a_comparison_shows_the_rows_of_the_chosen_steps(browser, compared):
    """The teacher's row above each run's, all of them equally wide, so that seeds stand below each other."""
    with opened(browser, compared) as page:
        assert shown(page, ".panel") == ["teacher, 2 steps, NFE 1", "a, NFE 1", "b, NFE 1"]
        boxes = [image.bounding_box() for image in page.locator(".panel img").all() if image.is_visible()]
        assert len({(round(box["x"]), round(box["width"])) for box in boxes}) == 1
        page.locator("#nfe-1").focus()
        page.keyboard.press("ArrowRight")
        assert shown(page, ".panel") == ["teacher, 2 steps, NFE 2", "a, NFE 2", "b, NFE 2"]


@pytest.mark.slow
def test_who_wants_no_motion_sees_the_last_frame(browser, tmp_path):
    run = make_run(tmp_path / "a")
    frames = [Image.new("RGB", (40, 20), color) for color in ("red", "blue")]
    frames[0].save(run.folder / MOVING, save_all=True, append_images=frames[1:], lossless=True)
    (tmp_path / "page.html").write_text(render_page(run))
    for motion, kind in (("reduce", "data:image/png"), ("no-preference", "data:image/webp")):
        with opened(browser, tmp_path / "page.html", motion=motion) as page:
            moving = page.locator("picture img")
            assert moving.evaluate("e => e.currentSrc").startswith(kind)
            assert undecoded(page) == []
            assert page.complaints == []
