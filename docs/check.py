"""Runs the command blocks of the documentation that are marked as tested.

    python docs/check.py [FILE ...] [--list] [--quick]

A block in sh or python is marked by a comment above it, which a reader of the page does not see:

    <!-- tested -->                 run it
    <!-- tested: slow -->           the same, but not with --quick
    <!-- tested: run -->            the same as slow, in a folder with a finished run of the smoke experiment,
                                    runs/decm_digits/<time>; it is trained once and copied for each block
    <!-- tested: only=A|B -->       of its commands those that match the regular expression
    <!-- tested                     what to run before it, in the same process
    x = 1
    -->

Every block runs in a folder of its own with links to what the checkout holds, but for its runs, data and weights: it
finds the commands and leaves nothing behind. For make .venv is set up, so that no block installs into it. W&B stays
offline. `runs/<experiment>/<time>` is the newest run in that folder.
Exit code 1 if a block fails, 2 if a mark cannot be meant.
"""

import argparse
import atexit
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_LINKED = {"runs", "data", "weights", "outputs", "multirun", ".git", ".venv"}
OF_MAKE = {
    "MAKEFLAGS",
    "MFLAGS",
    "MAKELEVEL",
    "MAKEOVERRIDES",
    "ARGS",
    "EXP",
    "RESUME",
    "IMAGE",
}  # not for a make within
RUNNERS = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
NEWEST = (re.compile(r"(runs/\w+)/<time>"), r"$(ls -td \1/*/ | head -n 1 | grep . || kill $$)")  # ends where none is
PLACEHOLDER = re.compile(r"<[a-z][\w /.-]*>")
TAIL = 40  # lines of a failed block's output


@dataclass(frozen=True)
class Block:
    """A marked block: where it stands, and what runs."""

    where: str
    language: str
    code: str
    slow: bool
    needs_run: bool = False


def parse(text: str, name: str) -> list[Block]:
    """The marked blocks of a page. Raises ValueError for a mark that stands alone or says what cannot be."""
    lines, found = text.splitlines(), []
    mark: tuple[str, str] | None = None  # options, and what runs before the block
    k = 0
    while k < len(lines):
        line, where = lines[k], f"{name}:{k + 1}"
        if mark is not None and line.strip() and not line.startswith("```"):
            raise ValueError(f"{where}: a mark must stand right above a block of sh or python.")
        end = "```" if line.startswith("```") else "-->" if line.startswith("<!-- tested") else None
        last = k if end is None or line.endswith("-->") else _closing(lines, k, end, where)
        if end == "-->":
            head, *before = "\n".join(lines[k : last + 1]).removesuffix("-->").split("\n")
            mark = head.removeprefix("<!-- tested").strip(), "\n".join(before)
        elif end == "```" and mark is not None:
            found.append(_block(where, line.removeprefix("```").strip(), lines[k + 1 : last], *mark))
            mark = None
        k = last + 1
    if mark is not None:
        raise ValueError(f"{name}: the last mark stands above no block.")
    return found


def _closing(lines: list[str], start: int, end: str, where: str) -> int:
    for k in range(start + 1, len(lines)):
        if lines[k].strip() == end:
            return k
    raise ValueError(f"{where}: what begins here is not closed by {end}.")


def _block(where: str, language: str, code: list[str], options: str, before: str) -> Block:
    if language not in RUNNERS:
        raise ValueError(f"{where}: a block of {language or 'no language'} is marked; expected {', '.join(RUNNERS)}.")
    slow, needs_run, text = False, False, "\n".join(code)
    for option in filter(None, (part.strip() for part in options.removeprefix(":").split(","))):
        if option == "slow":
            slow = True
        elif option == "run":
            slow = needs_run = True
        elif option.startswith("only="):
            commands = text.replace("\\\n", " ").splitlines()
            text = "\n".join(line for line in commands if re.search(option.removeprefix("only="), line))
        else:
            raise ValueError(
                f"{where}: tested: {option!r} is unknown; expected slow, run or only=<regular expression>."
            )
    if language == "sh":
        text = NEWEST[0].sub(NEWEST[1], text)
        left = PLACEHOLDER.search(text)
        if left:
            raise ValueError(f"{where}: {left[0]} stands for something, so that this block cannot run as it is.")
    if not text.strip():
        raise ValueError(f"{where}: nothing of this block would run.")
    return Block(where, language, f"{before}\n{text}".strip(), slow, needs_run)


def furnish(folder: Path) -> None:
    """Links to the checkout; .venv is a folder of links with a stamp of its own, newer than all that make compares."""
    (folder / ".venv").mkdir()
    places = [(ROOT, folder), (ROOT / ".venv", folder / ".venv")]
    for source, target in places:
        for entry in source.iterdir() if source.is_dir() else []:
            if entry.name not in NOT_LINKED | {".stamp"}:
                (target / entry.name).symlink_to(entry)
    (folder / ".venv" / ".stamp").touch()


@functools.cache
def smoke_runs() -> Path:
    """The folder `runs` with one finished run of the smoke experiment, as runs/decm_digits; removed at exit."""
    folder = Path(tempfile.mkdtemp(prefix="decm-docs-run-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    command = [sys.executable, "-m", "decm", "train", "experiment=smoke", "logger=csv", f"runs={folder / 'runs'}"]
    subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}
    )
    (folder / "runs" / "smoke").rename(folder / "runs" / "decm_digits")
    return folder / "runs"


def run(block: Block) -> tuple[bool, float, str]:
    """(whether it passed, seconds, output)."""
    environment = {key: value for key, value in os.environ.items() if key not in OF_MAKE}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "WANDB_MODE": "offline"}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="decm-docs-") as folder:
        furnish(Path(folder))
        if block.needs_run:
            shutil.copytree(smoke_runs(), Path(folder) / "runs", symlinks=True)
        done = subprocess.run(
            [*RUNNERS[block.language], block.code],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    return done.returncode == 0, time.perf_counter() - start, done.stdout


def pages() -> list[Path]:
    """The documentation."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="pages (default: README, CONTRIBUTING and docs/)")
    parser.add_argument("--list", action="store_true", help="say what is marked, run nothing")
    parser.add_argument("--quick", action="store_true", help="without the blocks that are marked as slow")
    options = parser.parse_args()
    try:
        found = [
            block for path in options.files or pages() for block in parse(path.read_text(encoding="utf-8"), _name(path))
        ]
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    failed = 0
    for block in found:
        if options.list:
            print(f"{block.where} ({block.language}{', slow' * block.slow})\n    " + block.code.replace("\n", "\n    "))
        elif not (block.slow and options.quick):
            passed, seconds, output = run(block)
            print(f"{'pass' if passed else 'FAIL'} {seconds:7.1f} s  {block.where} ({block.language})", flush=True)
            failed += not passed
            if not passed:
                print("\n".join("    " + line for line in output.splitlines()[-TAIL:]), flush=True)
    if not found:
        print("No block is marked as tested.", file=sys.stderr)
        return 2
    return int(failed > 0)


def _name(path: Path) -> str:
    place = path.resolve()
    return place.relative_to(ROOT).as_posix() if place.is_relative_to(ROOT) else path.name


if __name__ == "__main__":
    sys.exit(main())
