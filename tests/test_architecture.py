"""The layout that README describes: import arrows, size budget, lazy imports, and no machine in a tracked file."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from architecture import EXCEPTIONS, FILES_OF_ROOM, LINES_OF_ROOM, imports, over_budget, without_encoding, wrong_imports

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "decm"
SOURCES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
STANDARD = frozenset(sys.stdlib_module_names)
EVERY_SOURCE = pytest.mark.parametrize("path", SOURCES)

# In pieces, so that this file does not contain what it looks for.
MACHINE_PATH = re.compile(r"(?<![\w.~$}])/(?:" + "|".join(["wo" + "rk", "r" + "oot", "ho" + "me"]) + r")/")
INDEX_URL = re.compile(
    "|".join(
        [
            r"\bpy" + r"pi\.org",
            r"python" + r"hosted\.org",
            r"download\.py" + r"torch\.org",
            r"index-" + r"url[\s=\"']+https?:",
            r"https?://[^\s\"']+/simp" + r"le/?(?![\w-])",
        ]
    )
)


@EVERY_SOURCE
def test_imports_follow_the_arrows(path):
    assert wrong_imports(path, SOURCES[path].read_text(), STANDARD) == []


@EVERY_SOURCE
def test_files_functions_and_constructors_are_within_the_size_budget(path):
    assert [name for name in over_budget(path, SOURCES[path].read_text()) if name not in EXCEPTIONS] == []


@pytest.mark.parametrize("path", SOURCES)
def test_text_is_utf_8_whatever_the_locale(path):
    assert without_encoding(SOURCES[path].read_text()) == []


def test_text_in_the_locales_encoding_is_seen():
    for line in ("path.read_text()", "(a / b).write_text(text)", "path.open()", 'open(name, "w")', 'path.open("a")'):
        assert without_encoding(line) == [1], line
    for line in ('path.open("rb")', 'path.read_text(encoding="utf-8")', "Image.open(path)", 'open(name, "wb")'):
        assert without_encoding(line) == [], line


def test_test_files_are_within_the_size_budget():
    long = [str(path) for path in (ROOT / "tests").rglob("*.py") if len(path.read_text().splitlines()) > 260]
    assert long == []


def test_rooms_are_within_the_size_budget():
    """A folder within a room is a room of its own."""
    rooms = {path.parent for path in SOURCES.values()}
    files = {room: [path for path in room.glob("*.py") if path.name != "__init__.py"] for room in rooms}
    lines = {room: sum(len(path.read_text().splitlines()) for path in paths) for room, paths in files.items()}
    assert {room.name: len(paths) for room, paths in files.items() if len(paths) > FILES_OF_ROOM} == {}
    assert {room.name: count for room, count in lines.items() if count > LINES_OF_ROOM} == {}


def test_every_exception_is_still_needed():
    needed = {name for path, file in SOURCES.items() for name in over_budget(path, file.read_text())}
    assert set(EXCEPTIONS) <= needed


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("flow/path.py", "import numpy as np"),
        ("flow/path.py", "from decm.objectives.base import Rows"),
        ("flow/path.py", "from decm import networks"),
        ("flow/path.py", "from ..networks import mlp"),
        ("flow/path.py", "def f():\n    import lightning"),
        ("objectives/base.py", "from decm.networks.mlp import MLP"),
        ("networks/dit.py", "from decm.objectives import base"),
        ("networks/dit.py", "def f():\n    import diffusers"),
        ("networks/attention.py", "def f():\n    import triton"),
        ("networks/weights.py", "import decm.data.toy"),
        ("data/toy.py", "import decm.evaluation.frechet"),
        ("data/toy.py", "import lightning.pytorch as pl"),
        ("data/shards.py", "import webdataset as wds"),
        ("features/inception.py", "from decm.data.toy import Toy"),
        ("features/inception.py", "from torch_fidelity import x"),
        ("features/inception.py", "if True:\n    import torch_fidelity"),
        ("features/inception.py", "class A:\n    import torch_fidelity"),
        ("training/module.py", "import torchmetrics"),
        ("training/module.py", "from omegaconf import DictConfig"),
        ("training/module.py", "def f():\n    import wandb"),
        ("training/module.py", "from decm.report import page"),
        ("training/loggers.py", "import wandb"),
        ("generator/model.py", "from decm.training.module import Distillation"),
        ("generator/model.py", "import lightning"),
        ("generator/files.py", "from decm.training.module import DistillationModule"),
        ("generator/files.py", "from decm.training.loggers import finish"),
        ("generator/files.py", "from decm.experiment.build import build_dataset"),
        ("generator/files.py", "import huggingface_hub"),
        ("generator/graphs.py", "import onnx"),
        ("report/page.py", "import hydra"),
        ("report/page.py", "from decm.cli import main"),
        ("cli/train.py", "def f():\n    import wandb"),
        ("checkpoints/sealed.py", "from decm.runs.folders import LAST"),
        ("runs/folders.py", "from decm.settings.composition import plain"),
        ("settings/schema.py", "from decm.networks.dit import LightningDiT"),
        ("experiment/fit.py", "from decm.sweeps.job import start"),
        ("sweeps/job.py", "from decm.cli.main import main"),
        ("extra/thing.py", "import math"),
    ],
)
def test_the_checker_sees_a_forbidden_import(path, line):
    assert len(wrong_imports(path, line, STANDARD)) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("flow/randomness.py", "import numpy as np"),
        ("flow/path.py", "from . import times\nimport math\nfrom torch.nn import attention"),
        ("networks/autoencoder.py", "def f():\n    from diffusers import AutoencoderKL"),
        ("data/datamodule.py", "from lightning import LightningDataModule"),
        ("data/shards.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import webdataset"),
        ("training/module.py", "import lightning\nfrom decm.data.toy import Toy\nfrom decm import flow"),
        ("training/loggers.py", "def f():\n    import wandb"),
        ("report/page.py", "from decm.generator.networks import build_network\nfrom decm import __version__"),
        ("__init__.py", "from decm.generator.model import Generator"),
        ("generator/model.py", "from decm.generator.files import read_stored"),
        ("generator/card.py", "from decm.evaluation.titles import TITLES"),
        (
            "generator/files.py",
            "from decm.checkpoints.files import read_file\ndef f():\n    import huggingface_hub",
        ),
        ("cli/train.py", "import hydra\nfrom decm import report, training\nfrom decm.generator.model import Generator"),
    ],
)
def test_the_checker_lets_an_allowed_import_pass(path, line):
    assert wrong_imports(path, line, STANDARD) == []


def test_the_checker_resolves_relative_imports():
    source = "from . import a\nfrom ..flow.path import expand\ndef f():\n    import b"
    found = list(imports("networks/dit.py", source))
    assert found == [("decm.networks.a", True), ("decm.flow.path.expand", True), ("b", False)]


def test_the_checker_sees_what_is_over_the_budget():
    def body(lines):
        return "".join(f"        x{k} = {k}\n" for k in range(lines))

    nine, eight = (", ".join(f"a{k}" for k in range(n)) for n in (9, 8))
    assert over_budget("f.py", f"class A:\n    def __init__(self, {nine}):\n        pass\n") == [
        "f.py:A.__init__ arguments"
    ]
    assert over_budget("f.py", f"class A:\n    def __init__(self, {eight}):\n        pass\n") == []
    assert over_budget("f.py", f"class A:\n    def g(self):\n{body(50)}") == ["f.py:A.g lines"]
    assert over_budget("f.py", f"class A:\n    def g(self):\n{body(49)}") == []
    assert over_budget("f.py", "x = 1\n" * 261) == ["f.py lines"]
    assert over_budget("f.py", "x = 1\n" * 260) == []


@pytest.mark.parametrize("module", ["decm", "decm.cli.main"])
def test_torch_is_not_imported_before_it_is_needed(module):
    if not PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py" if "." in module else "").exists():
        pytest.skip(f"{module} does not exist yet")
    heavy = "{'torch', 'lightning', 'timm', 'sklearn', 'matplotlib'}"
    code = f"import sys, {module}; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    outcome = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (outcome.returncode, outcome.stderr) == (0, "")


def tracked():
    """{name: text} of the tracked text files."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    texts = {}
    for name in filter(None, listing.stdout.split("\0")):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b""
        if b"\0" not in content:
            texts[name] = content.decode("utf-8", errors="replace")
    return texts


def test_no_tracked_file_names_a_package_index():
    files = tracked()
    assert [name for name, text in files.items() if INDEX_URL.search(text)] == []
    assert [name for name in files if Path(name).name in ("uv.lock", "pylock.toml")] == []


def test_no_tracked_file_names_a_path_of_one_machine():
    assert [name for name, text in tracked().items() if MACHINE_PATH.search(text)] == []


def test_no_output_of_a_run_is_tracked():
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    names = [Path(name) for name in listing.stdout.split("\0") if name]
    written = [name for name in names if name.suffix == ".ckpt" or name.name in ("overrides.yaml", "command.txt")]
    assert [name for name in written if name.parts[0] != "tests"] == []


def test_the_patterns_see_what_they_look_for():
    for text in (
        "https://py" + "pi.org/simple",
        "--extra-index-" + "url https://x.y",
        "http://mirror/packages/simp" + "le/",
    ):
        assert INDEX_URL.search(text), text
    for folder in ("wo" + "rk", "r" + "oot", "ho" + "me"):
        assert MACHINE_PATH.search(f"data: /{folder}/x")
        assert MACHINE_PATH.search(f"file:///{folder}/x")
    for text in ("net" + "work/a", "https://host.org/ho" + "me/x", "runs/wo" + "rk/x", "a simple/ line"):
        assert not MACHINE_PATH.search(text), text
        assert not INDEX_URL.search(text), text
