"""The images pass their linter and copy only files that exist, and the set-up script refuses what it must not do."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILES = ("docker/Dockerfile", "docker/Dockerfile.cpu")
BOTH = pytest.mark.parametrize("path", DOCKERFILES)


def hadolint(*arguments, text=None):
    linter = Path(sys.executable).parent / "hadolint"
    return subprocess.run([linter, "--no-color", *arguments], input=text, cwd=ROOT, capture_output=True, text=True)


def instructions(path):
    """[(instruction, its argument on one line)] of a Dockerfile."""
    lines = [line for line in (ROOT / path).read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line]


@BOTH
def test_the_linter_finds_nothing_and_nothing_is_hidden_from_it(path):
    outcome = hadolint(path)
    assert (outcome.returncode, outcome.stdout + outcome.stderr) == (0, "")
    assert "hadolint ignore" not in (ROOT / path).read_text()
    assert not (ROOT / ".hadolint.yaml").exists()


def test_the_script_refuses_what_it_does_not_know(tmp_path):
    (tmp_path / "docker").mkdir()
    script = shutil.copy(ROOT / "docker" / "install.sh", tmp_path / "docker")
    for arguments in ([], ["everything"]):
        outcome = subprocess.run([script, *arguments], capture_output=True, text=True)
        assert (outcome.returncode, outcome.stdout) == (2, "")
        assert "packages | decm" in outcome.stderr


def test_the_script_leaves_another_checkouts_environment_alone(tmp_path):
    """A linked .venv, and a script that is reached through a link: nothing is installed, the target stays as it was."""
    checkout, other = tmp_path / "checkout", tmp_path / "other"
    (checkout / "docker").mkdir(parents=True)
    (other / "bin").mkdir(parents=True)
    (other / "bin" / "python").write_text('#!/bin/sh\ntouch "$(dirname "$0")/used"\n')
    (other / "bin" / "python").chmod(0o755)
    shutil.copy(ROOT / "docker" / "install.sh", checkout / "docker")
    (checkout / ".venv").symlink_to(other)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "docker").symlink_to(checkout / "docker")
    for folder in (checkout, tmp_path / "elsewhere"):
        for step in ("packages", "decm"):
            outcome = subprocess.run([folder / "docker" / "install.sh", step], capture_output=True, text=True)
            assert outcome.returncode == 2
            assert str(other) in outcome.stderr
    assert [path.name for path in other.rglob("*") if path.is_file()] == ["python"]


def test_the_build_sees_nothing_but_what_is_copied():
    """Patterns in .dockerignore: everything is left out, and what the Dockerfiles copy is taken in again."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    taken = {line.removeprefix("!") for line in patterns if line.startswith("!")}
    for path in DOCKERFILES:
        copied = {
            part for name, argument in instructions(path) if name == "COPY" for part in argument.split()[:-1]
        }  # all but the target
        assert copied == taken
        assert all((ROOT / part).exists() for part in copied)


def test_another_image_is_refused_by_make():
    outcome = subprocess.run(["make", "-n", "docker-build", "IMAGE=tpu"], cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 2
    assert "IMAGE=tpu; expected gpu or cpu" in outcome.stderr
