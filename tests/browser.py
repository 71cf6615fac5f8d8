"""A real browser without a screen, driven by Playwright: any Chromium, Chrome or Edge of this machine."""

import os
import shutil
import subprocess
from contextlib import contextmanager

import pytest
from playwright.sync_api import sync_playwright

# WCAG's contrast of text against what lies behind it, for every element that has text of its own.
CONTRAST = """() => {
  const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m };
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                       return 0.2126 * r + 0.7152 * g + 0.0722 * b };
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
                        if (c[3] > 0) return c } return [255, 255, 255, 1] };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    const style = getComputedStyle(e), color = e.closest('svg') ? style.fill : style.color;
    const [a, b] = [light(parse(color).slice(0, 3)), light(behind(e).slice(0, 3))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.tagName, e.textContent.trim().slice(0, 30)]);
  }
  return found;
}"""


NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "msedge",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
)


def find_browser():
    """The path of a browser, or None; CHROME names one that is elsewhere."""
    chosen = os.environ.get("CHROME")
    return next(filter(None, map(shutil.which, [chosen] if chosen else NAMES)), None)


def install_browser():
    """Installs Debian's chromium where this process may; where it fails, find_browser() finds nothing as before."""
    if os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-qq"], capture_output=True)
        command = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", "chromium"]
        subprocess.run(command, capture_output=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


def skip(reason):
    """Skips the test with this sentence; under CI=true it fails instead."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@contextmanager
def chromium():
    """A running browser; tests are skipped where there is none and none can be installed."""
    if find_browser() is None and not os.environ.get("CHROME"):
        install_browser()
    path = find_browser()
    if path is None:
        skip("No Chromium, Chrome or Edge was found; install one, or set CHROME to the path of one.")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser, path, width=1400, scheme="light", motion="no-preference"):
    """A page of a file, offline; `page.complaints` collects errors, warnings and what was asked of a network."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion=motion, offline=True
    )
    page = context.new_page()
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda r: page.complaints.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    page.goto(path.resolve().as_uri())
    page.wait_for_load_state()
    yield page
    context.close()


def undecoded(page):
    """The pictures that the browser could not decode."""
    script = (
        "async () => { const all = [...document.images]; await Promise.all(all.map(i => i.decode().catch(() => 0)));"
    )
    return page.evaluate(script + " return all.filter(i => !i.naturalWidth).map(i => i.alt) }")


def overflow(page):
    """By how many pixels the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def faint(page, least=4.5):
    """The texts whose contrast is below WCAG's AA."""
    return [found for found in page.evaluate(CONTRAST) if found[0] < least]


def shown(page, selector):
    """The `alt` of the pictures that can be seen in a part of the page."""
    return [image.get_attribute("alt") for image in page.locator(f"{selector} img").all() if image.is_visible()]
