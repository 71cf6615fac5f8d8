"""The anchor of a step: every sample has its noise, time and label drop from its index in the run."""

import pytest
import torch

from helpers import CLASSES
from tiny import (
    GLOBAL_BATCH,
    anchor,
    tiny_module,
    tiny_set,
)

INDEX = range(GLOBAL_BATCH)


def test_labels_are_dropped_at_the_rate_asked_for_and_by_sample_alone():
    dataset, index = tiny_set(num=4000), range(4000)
    module = tiny_module(label_drop=0.1, batch_size=4000)
    dropped = anchor(module, dataset, index).y == CLASSES
    kept = anchor(tiny_module(batch_size=4000), dataset, index).y
    assert float(dropped.float().mean()) == pytest.approx(0.1, abs=0.015)
    assert torch.equal(anchor(module, dataset, index).y[~dropped], kept[~dropped])
    assert torch.equal(anchor(module, dataset, range(100, 300)).y == CLASSES, dropped[100:300])
    assert not (kept == CLASSES).any()


def test_the_anchor_of_a_sample_is_the_same_in_any_cut_of_its_batch():
    module = tiny_module(label_drop=0.3)
    whole = anchor(module, tiny_set(), range(16, 24))
    for part in (range(16, 18), range(21, 24)):
        cut, pick = anchor(module, tiny_set(), part), slice(part.start - 16, part.stop - 16)
        for name in ("x", "z", "t", "y"):
            assert torch.equal(getattr(cut, name), getattr(whole, name)[pick])


def test_times_are_stratified_and_then_mapped():
    t = anchor(tiny_module(), tiny_set(), INDEX).t
    mapped = anchor(tiny_module(times=torch.square), tiny_set(), INDEX).t
    assert sorted((t * GLOBAL_BATCH).int().tolist()) == list(INDEX)
    assert torch.equal(mapped, t.square())
