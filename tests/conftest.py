"""One tiny run of digits, with its teacher, for all the tests that need a finished one."""

import gc
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import commands
from decm.generator.model import Generator

torch.set_num_threads(1)  # networks this small only lose by a second one


@dataclass(frozen=True)
class Finished:
    """A root of run folders, the finished run in it and its teacher's, and what was said."""

    runs: Path
    folder: Path
    teacher: Path
    answer: commands.Answer

    def begin(self, folder: Path) -> Path:
        """`folder` as a root of run folders, with the digit classifier and the teacher."""
        for name in ("cache", self.teacher.parent.name):
            shutil.copytree(self.runs / name, folder / name)
        return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Trained once a session. Not to be written to: see `runs`."""
    runs = tmp_path_factory.mktemp("runs")
    answer = commands.train(runs, "report=true")
    assert answer.code == 0, answer.said
    return Finished(runs, commands.only(runs / "smoke"), commands.only(runs / "teacher_smoke"), answer)


@pytest.fixture
def cached(finished, tmp_path):
    """A root of run folders of one's own, with the digit classifier alone."""
    shutil.copytree(finished.runs / "cache", tmp_path / "runs" / "cache")
    return tmp_path / "runs"


@pytest.fixture
def runs(finished, cached):
    """A root of run folders of one's own, with the digit classifier and the teacher."""
    shutil.copytree(finished.teacher.parent, cached / finished.teacher.parent.name)
    return cached


@pytest.fixture(scope="module")
def model(finished):
    """The generator of the finished run."""
    return Generator.from_pretrained(finished.folder, device="cpu")


@pytest.fixture
def exported(model, tmp_path):
    """The folder of that generator."""
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def pytest_collection_finish():
    """What was imported is never garbage: a collection, which Lightning asks for after each run, leaves it out."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    """Files that have slow tests come first, so that the workers of `make test` end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
