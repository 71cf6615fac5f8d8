"""The summary of a profile: busy time, gaps and kernels, on made spans and on a real step of the CPU."""

import pytest
from speed.cases import NETWORKS, Case
from speed.profile import Span, profiled, summary

MS = 1_000_000


def spans(*parts):
    return [Span(name, int(start * MS), int(end * MS)) for name, start, end in parts]


def test_gaps_and_kernels_of_made_spans():
    found = summary(spans(("a", 0, 2), ("b", 1, 3), ("a", 5, 6), ("c", 6, 7), ("b", 9.5, 10)), shown=2)
    assert found["busy"] == pytest.approx(5.5 / 10)
    assert [(gap["ms"], gap["after"], gap["before"]) for gap in found["gaps"]] == [(2.5, "c", "b"), (2.0, "b", "a")]
    assert [(one["name"], one["ms"]) for one in found["kernels"]] == [("a", 3.0), ("b", 2.5)]
    assert found["kernels"][0]["share"] == pytest.approx(3 / 5.5)


def test_a_span_within_another_makes_no_gap_and_counts_once():
    found = summary(spans(("long", 0, 10), ("short", 1, 2), ("next", 10, 11)))
    assert found["busy"] == 1
    assert found["gaps"] == []


def test_nothing_ran():
    assert summary([]) == {"busy": 0.0, "gaps": [], "kernels": []}


def test_a_real_step_is_made_of_its_operators(monkeypatch):
    tiny = ("network=lightningdit_b_1", "network.hidden_size=32", "network.depth=1", "network.num_heads=2")
    monkeypatch.setitem(NETWORKS, "tiny", tiny)
    found = profiled(Case("step", "dual", network="tiny", batch=2), "cpu", steps=3)
    assert 0.1 < found["busy"] <= 1
    assert len(found["gaps"]) == len(found["kernels"]) == 5
    assert all(one["name"].startswith("aten::") for one in found["kernels"])
    assert sum(one["share"] for one in found["kernels"]) <= 1 + 1e-9
