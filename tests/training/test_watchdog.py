"""The watchdog: an evaluation that goes on is no hang, however long it takes, and one that does not is."""

import json
import threading
import time

import pytest

from decm.evaluation.evaluator import Evaluator
from decm.flow.flow_map import FlowMap
from decm.training.callbacks.reliability import watchdog
from decm.training.callbacks.reliability.watchdog import HUNG, Watchdog


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """(a watchdog of the first of two ranks, when it ended its process)."""
    ended, watching = threading.Event(), Watchdog(tmp_path, 1.0)

    def leave(code):
        assert code == HUNG
        watching._done.set()
        ended.set()

    monkeypatch.setattr(watchdog.os, "_exit", leave)
    watching.world = 2
    watching.folder.mkdir()
    thread = threading.Thread(target=watching._watch)
    thread.start()
    yield watching, ended
    watching._done.set()
    thread.join()


def test_an_evaluation_longer_than_the_limit_goes_on_until_it_hangs(watched, capsys):
    """Twelve steps of the network, a fifth of a second each."""
    watching, ended = watched
    slow = FlowMap(lambda x, t, s, y: time.sleep(0.2) or x)
    Evaluator(None, (2,), 0, alive=watching.alive).samples(slow, 12, 3, ())
    assert not ended.is_set()
    assert ended.wait(10)
    note = json.loads((watching.folder / "rank_0.json").read_text())
    assert note["waits"] == watching.waits == 12
    assert "Behind the others: rank 1" in capsys.readouterr().err
