"""The documentation's marked blocks run, and what its pages name is there."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?:|#)([^)\s#]+)")
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
SOURCE = re.compile(r"`((?:src/decm|conf|benchmarks|docker|docs)/[\w/.]+\.(?:py|yaml|sh|md))`")


def check(*arguments, **environment):
    return subprocess.run(
        [sys.executable, ROOT / "docs" / "check.py", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def page(tmp_path):
    """Writes a page of marked blocks [(mark, language, code)], and checks it."""

    def write(*blocks, options=(), **environment):
        text = "\n".join(f"Some text.\n\n{mark}\n```{language}\n{code}\n```\n" for mark, language, code in blocks)
        (tmp_path / "page.md").write_text(text)
        return check(tmp_path / "page.md", *options, **environment)

    return write


def test_marked_blocks_run_and_others_do_not(page, tmp_path):
    outcome = page(
        ("<!-- tested -->", "sh", f"echo one >> {tmp_path}/ran"),
        ("", "sh", f"echo two >> {tmp_path}/ran; false"),
        ("<!-- another comment -->", "sh", f"echo three >> {tmp_path}/ran; false"),
        ("<!-- tested -->", "python", f"open('{tmp_path}/ran', 'a').write('four\\n')"),
    )
    assert outcome.returncode == 0, outcome.stdout
    assert (tmp_path / "ran").read_text().split() == ["one", "four"]
    assert re.findall(r"pass +[\d.]+ s  (.*)", outcome.stdout) == ["page.md:4 (sh)", "page.md:25 (python)"]


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("sh", "echo told; false; true"),
        ("sh", "false | echo told"),
        ("sh", "echo told $undefined"),
        ("python", "print('told')\nassert False"),
    ],
)
def test_a_block_that_fails_is_shown_and_fails_the_whole_while_the_others_run(page, language, code):
    outcome = page(("<!-- tested -->", language, code), ("<!-- tested -->", "sh", "true"))
    assert outcome.returncode == 1
    assert re.findall(r"^(FAIL|pass)", outcome.stdout, re.MULTILINE) == ["FAIL", "pass"]
    assert "told" in outcome.stdout or "undefined: unbound" in outcome.stdout


def test_a_block_finds_this_checkout_and_leaves_nothing_in_it(page):
    outcome = page(
        ("<!-- tested -->", "sh", f"test LICENSE -ef {ROOT}/LICENSE; test ! -e runs; mkdir runs; touch left_behind"),
        (
            "<!-- tested -->",
            "python",
            f"import decm, pathlib\nassert decm.__file__.startswith('{ROOT}/src')\n"
            "assert not pathlib.Path('left_behind').exists()",
        ),
        ("<!-- tested -->", "sh", 'test -z "${ARGS-}${EXP-}${MAKEFLAGS-}" && test "$WANDB_MODE" = offline'),
        ARGS="--quick",
        EXP="other",
        MAKEFLAGS="n",
    )
    assert outcome.returncode == 0, outcome.stdout
    assert not (ROOT / "left_behind").exists()


def test_no_block_sets_up_the_environment_also_where_its_stamp_is_old(page):
    """The shared .venv must stay as it is: `make` in a block finds it up to date, and cannot move the stamp."""
    stamp = ROOT / ".venv" / ".stamp"
    before = stamp.stat().st_mtime_ns if stamp.exists() else None
    outcome = page(
        ("<!-- tested -->", "sh", "test -x .venv/bin/python; make -n setup > said; ! grep install.sh said"),
        ("<!-- tested -->", "sh", "touch .venv/.stamp; .venv/bin/python -c 'import yaml'"),
        ("<!-- tested -->", "sh", "make -n -W requirements.lock setup > said; grep -q install.sh said"),
    )
    assert outcome.returncode == 0, outcome.stdout
    assert (stamp.stat().st_mtime_ns if stamp.exists() else None) == before


def test_the_marks_of_the_pages_here_can_be_meant():
    outcome = check("--list")
    assert outcome.returncode == 0, outcome.stderr
    assert {"README.md", "CONTRIBUTING.md"} <= set(re.findall(r"^(\S+):\d+ \(", outcome.stdout, re.MULTILINE))


def missing(page, text):
    """The links, files and tests that a page names and that are not there."""
    files = [page.parent / link for link in LINK.findall(text)]
    files += [ROOT / name for name in SOURCE.findall(text)]
    gone = [str(file) for file in files if not file.exists()]
    for file, test in TEST.findall(text):
        source = (ROOT / file).read_text() if (ROOT / file).is_file() else ""
        if not re.search(rf"^\s*def {test}\(" if test else ".", source, re.MULTILINE):
            gone.append(f"{file}::{test}")
    return gone


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_files_and_tests_that_a_page_names_are_there(page):
    assert missing(page, page.read_text()) == []


def test_the_citation_and_the_changelog_are_of_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (paper,) = citation["references"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert paper["identifiers"] == [{"type": "other", "value": "arXiv:2602.10764"}]
    assert re.search(rf"(?m)^## \[({re.escape(project['version'])}|Unreleased)\]", (ROOT / "CHANGELOG.md").read_text())
