"""The images: linted, of the lock and the script of every fresh clone, and of nothing else that lies in the checkout.

No image is built here: what is tried is what they are made of.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILES = ("docker/Dockerfile", "docker/Dockerfile.cpu")
INSTALL = ["docker/install.sh packages", "docker/install.sh decm"]
BOTH = pytest.mark.parametrize("path", DOCKERFILES)


def hadolint(*arguments, text=None):
    linter = Path(sys.executable).parent / "hadolint"
    return subprocess.run([linter, "--no-color", *arguments], input=text, cwd=ROOT, capture_output=True, text=True)


def instructions(path):
    """[(instruction, its argument on one line)] of a Dockerfile."""
    lines = [line for line in (ROOT / path).read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line]


def position(found, instruction, part):
    (at,) = [k for k, (name, argument) in enumerate(found) if name == instruction and part in argument]
    return at


def compose():
    return yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())


@BOTH
def test_the_linter_finds_nothing_and_nothing_is_hidden_from_it(path):
    outcome = hadolint(path)
    assert (outcome.returncode, outcome.stdout + outcome.stderr) == (0, "")
    assert "hadolint ignore" not in (ROOT / path).read_text()
    assert not (ROOT / ".hadolint.yaml").exists()


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("RUN apt-get update && apt-get install -y g++", "DL3008"),
        ("RUN pip install uv", "DL3013"),
        ("USER root", "DL3002"),
    ],
)
def test_the_linter_sees_a_mistake(line, rule):
    outcome = hadolint("-", text=(ROOT / DOCKERFILES[0]).read_text() + line + "\n")
    assert (outcome.returncode, rule in outcome.stdout) == (1, True)


@BOTH
def test_what_an_image_installs_is_what_a_fresh_clone_installs(path):
    """Besides a compiler and an interpreter from the base's own packages, and the user."""
    runs = [re.sub(r"--mount=\S+ ", "", argument) for name, argument in instructions(path) if name == "RUN"]
    rest = [run for run in runs if not run.startswith(("apt-get update && apt-get install", "useradd"))]
    assert rest == INSTALL
    setup = subprocess.run(
        ["make", "-n", "-W", "requirements.lock", "setup"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert re.findall(r"docker/install\.sh \w+", setup.stdout) == INSTALL
    assert "pip " not in setup.stdout
    assert "make setup" in (ROOT / ".ci" / "run").read_text()


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


@BOTH
def test_only_another_lock_makes_the_packages_anew(path):
    found = instructions(path)
    packages = position(found, "RUN", INSTALL[0])
    copied = [argument for name, argument in found[:packages] if name == "COPY"]
    assert copied == ["requirements.lock ./", "docker/install.sh docker/"]
    assert packages < position(found, "COPY", "src") < position(found, "RUN", INSTALL[1])


@BOTH
def test_an_image_runs_decm_as_nobody_in_particular_with_runs_as_a_volume(path):
    found = instructions(path)
    last = dict(found)
    (uid,) = [argument for name, argument in found if name == "ARG" and argument.startswith("UID=")]
    assert int(uid.removeprefix("UID=")) > 0
    assert (last["USER"], last["VOLUME"], last["ENTRYPOINT"]) == ("${UID}", "/opt/decm/runs", '["decm"]')
    assert 'CMD ["test", "-w", "runs"]' in last["HEALTHCHECK"]
    (base,) = [argument.removeprefix("BASE=") for name, argument in found if argument.startswith("BASE=")]
    assert last["FROM"] == "${BASE}"
    assert re.fullmatch(r"[\w/]+:\d[\w.-]+", base), "a tag with a version"


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


def test_compose_trains_and_has_wandbs_server_where_it_is_asked_for():
    services = compose()["services"]
    assert {name: service.get("profiles") for name, service in services.items()} == {
        "trainer": None, "trainer-cpu": ["cpu"], "wandb": ["wandb"],
    }  # fmt: skip
    (port,) = services["wandb"]["ports"]
    assert port.split(":")[-2:] == ["8080", "8080"]
    assert services["wandb"]["image"].startswith("wandb/local:")
    for name, dockerfile in (("trainer", DOCKERFILES[0]), ("trainer-cpu", DOCKERFILES[1])):
        service = services[name]
        assert service["build"]["dockerfile"] == dockerfile
        assert (ROOT / "docker" / service["build"]["context"]).resolve() == ROOT
        assert "../runs:/opt/decm/runs" in service["volumes"]
        assert service["command"] == ["train", "experiment=${EXP:-decm_digits}", "resume=auto"]
    (device,) = services["trainer"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert "deploy" not in services["trainer-cpu"]


@pytest.mark.parametrize(
    ("image", "dockerfile", "service"),
    [("gpu", "docker/Dockerfile", "trainer"), ("cpu", *DOCKERFILES[1:], "trainer-cpu")],
)
def test_make_builds_and_trains_in_the_image_that_is_asked_for(image, dockerfile, service):
    made = subprocess.run(
        ["make", "-n", "docker-train", f"IMAGE={image}", "EXP=smoke", "RESUME=1", "ARGS=seed=3"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert f"docker build -f {dockerfile} -t decm:{image} .\n" in made
    assert re.search(rf"run --rm {service} \\\n\s+train experiment=smoke resume=auto seed=3", made)
    assert service in compose()["services"]


def test_another_image_is_refused_by_make():
    outcome = subprocess.run(["make", "-n", "docker-build", "IMAGE=tpu"], cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 2
    assert "IMAGE=tpu; expected gpu or cpu" in outcome.stderr
