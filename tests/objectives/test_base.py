"""The records that travel: a batch's segments lie on its own paths, and share the field at the anchor."""

import pytest
import torch

from decm.flow.path import interpolate
from decm.objectives.base import Batch, Segment, SubTrajectory
from decm.objectives.flow_matching import FlowMatching
from helpers import largest, random_labels, random_states, random_times

SHAPE = (2, 4, 4)
B = 6


@pytest.fixture
def batch():
    x, z = random_states(B, SHAPE), random_states(B, SHAPE, seed=1)
    return Batch(x, z, random_times(B, 0, 1), random_labels(B), torch.arange(B))


def planned(start, end, rows=None, at_anchor=False):
    return SubTrajectory("any", FlowMatching(), start, end, count=len(start), rows=rows, at_anchor=at_anchor)


def test_segment_starts_on_the_path_of_its_own_rows(batch):
    rows = torch.tensor([4, 1])
    r = torch.tensor([0.05, 0.1], dtype=batch.t.dtype)
    segment = batch.segment(planned(r, batch.t[rows], rows), None)
    assert torch.equal(segment.x, interpolate(batch.x[rows], batch.z[rows], r))
    assert torch.equal(segment.y, batch.y[rows])
    assert torch.equal(segment.end, batch.t[rows])


def test_field_at_the_anchor_is_shared_only_by_segments_that_start_there(batch):
    v, rows = random_states(B, SHAPE, seed=2), torch.tensor([4, 1])
    one = torch.ones_like(batch.t)
    assert torch.equal(batch.segment(planned(batch.t, one, at_anchor=True), v).v, v)
    assert torch.equal(batch.segment(planned(batch.t[rows], one[rows], rows, at_anchor=True), v).v, v[rows])
    assert batch.segment(planned(batch.t / 2, batch.t), v).v is None
    assert batch.segment(planned(batch.t[rows] / 2, batch.t[rows], rows), v).v is None


def test_segment_asks_the_field_once(batch):
    calls = []

    def field(x, t, y):
        calls.append(t)
        return 2 * x

    segment = Segment(batch.x, batch.t, batch.t, batch.y)
    assert largest(segment.velocity(field) - 2 * batch.x) == 0
    segment.velocity(field)
    assert len(calls) == 1


@pytest.mark.parametrize("wrong", ["z", "t", "y", "index"])
def test_shapes_are_asserted_where_a_batch_is_made(batch, wrong):
    parts = {name: getattr(batch, name) for name in ("x", "z", "t", "y", "index")}
    with pytest.raises(AssertionError):
        Batch(**{**parts, wrong: parts[wrong][:-1]})
