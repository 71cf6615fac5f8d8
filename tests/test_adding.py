"""A method, a network and a data set of one's own: one Python file and one YAML each, in a package outside decm."""

import shutil

import pytest

from commands import NO_TEACHER, decm, only, results, train

pytestmark = pytest.mark.slow
LAW = '''
from decm.flow.path import expand
from decm.objectives.norms import mean_square
from decm.objectives.base import Aim

class Cubic:
    """The consistency law F = v + (1 - t) dF, with the loss e^1.5."""

    def __init__(self, power: float = 1.5) -> None:
        self.power = power

    def ask(self, segment, field):
        return segment.along_the_flow(segment.velocity(field))

    def aim(self, segment, F, dF, field):
        target = segment.velocity(field) + expand(segment.end - segment.start, F) * dF
        return Aim(target, F - target)

    def measure(self, segment, F, aim):
        return mean_square(F - aim.target) ** self.power
'''
METHOD = """
# @package _global_
defaults:
  - shared/instantaneous@method.instantaneous
  - shared/segment@method.cubic
  - _self_
method:
  cubic:
    _target_: decm.training.callbacks.method.trajectories.ToData
    name: cubic
    objective:
      _target_: added_method.law.Cubic
      power: 1.5
"""
NETWORK = '''
import torch
from torch import nn

class Convolutions(nn.Module):
    """F(x, t, s, y) by convolutions; its tangents come from torch.func.jvp."""

    def __init__(self, width: int = 8, num_classes: int = 10) -> None:
        super().__init__()
        self.shape, self.num_classes = (1, 8, 8), num_classes
        self.labels = nn.Embedding(num_classes + 1, width)
        self.times = nn.Linear(2, width)
        self.first, self.last = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x, t, s, y):
        condition = self.labels(y) + self.times(torch.stack([t, s - t], 1))
        return self.last(torch.tanh(self.first(x) + condition[:, :, None, None]))
'''
DATA = '''
from decm.data.arrays import ArrayDataset, digits

def fewer_digits(heldout: int = 300) -> ArrayDataset:
    """Digits of another split."""
    return digits(heldout, split_seed=3)
'''
ADDED = {
    "method": ("law.py", LAW, METHOD, ["method.cubic.objective.power=2"], ["method.cubic.objective.power=x"]),
    "network": (
        "net.py",
        NETWORK,
        "_target_: added_network.net.Convolutions\nwidth: 8\nnum_classes: 10\n",
        ["network.width=6"],
        ["network.width=wide"],
    ),
    "data": (
        "sets.py",
        DATA,
        "_target_: added_data.sets.fewer_digits\nheldout: 300\n",
        ["data.heldout=310"],
        ["data.heldout=x"],
    ),
}


@pytest.mark.parametrize("group", ADDED)
def test_what_is_added_from_outside_trains_resumes_samples_and_is_evaluated(cached, tmp_path, monkeypatch, group):
    """Its settings have the types of its constructor, which is all that decm is told of them."""
    file, code, option, setting, mistake = ADDED[group]
    package = f"added_{group}"  # of its own, since what this process has imported stays
    for path, text in (
        (f"{package}/{file}", code),
        (f"{package}/__init__.py", ""),
        (f"conf/{group}/mine.yaml", option),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DECM_TRUST", package)
    settings = ["--config-dir", str(tmp_path / "conf"), f"{group}=mine", *setting]
    settings += ["teacher=none"] if group == "method" else NO_TEACHER
    if group == "network":
        settings += ["~network.hidden_size", "~network.depth"]

    wrong = train(cached, *settings, *mistake)
    assert wrong.code == 2, wrong.said
    assert f"full_key: {mistake[0].split('=')[0]}" in wrong.err
    answer = train(cached, *settings)
    assert answer.code == 0, answer.said
    run = only(cached / "smoke")
    before = results(run)["student"]

    (run / "results.json").unlink()
    for path in (run / "checkpoints").glob("*"):
        if path.name in ("last.ckpt", "step_00000006.ckpt"):
            path.unlink()
    answer = train(cached, *settings, "resume=auto")
    assert answer.code == 0, answer.said
    assert "Continuing" in answer.out
    assert results(run)["student"] == before

    picture = tmp_path / "a.png"
    for words in (
        ("sample", f"out={picture}", "nfe=2"),
        ("evaluate", "nfe=[1]"),
        ("export", f"out={tmp_path / 'model'}"),
    ):
        answer = decm(words[0], f"{'run' if words[0] == 'export' else 'checkpoint'}={run}", *words[1:])
        assert answer.code == 0, answer.said
    assert picture.is_file()
    shutil.rmtree(tmp_path / package)
