"""A split gives every class its share, and what a class lacks is named."""

import numpy as np
import pytest

from decm.data.arrays import digits
from decm.data.manifest import content_hash
from decm.data.split import gaps, split_by_class


def counts(labels, rows, classes):
    return np.bincount([labels[row] for row in rows], minlength=classes)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("sizes", "heldout"),
    [
        ((60, 60), 30),
        ((100, 3), 10),
        ((5,) * 10, 5),
        ((2, 2, 2), 3),
        ((1, 1, 8), 2),
        ((40,), 7),
        ((0, 9, 0, 3), 2),
        ((2, 2, 300), 60),
        ((7, 11, 13, 17), 20),
    ],
)
def test_every_class_trains_and_is_held_out_where_there_are_enough_pictures(sizes, heldout, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes)).tolist()
    train, held = split_by_class(labels, heldout, seed)
    assert sorted(train + held) == list(range(len(labels)))
    assert len(held) == heldout
    kept, given = counts(labels, train, len(sizes)), counts(labels, held, len(sizes))
    assert ((kept > 0) == (np.array(sizes) > 0)).all()
    several = np.array(sizes) > 1
    if several.sum() <= heldout:
        assert (given[several] > 0).all()
    share = np.array(sizes) * heldout / sum(sizes)
    assert (given - np.maximum(share, several) < 1 + 1e-9).all()  # the share rounded up, and one at least


@pytest.mark.parametrize(
    ("sizes", "heldout", "expected"),
    [
        ((60, 60), 30, [15, 15]),
        ((90, 30), 12, [9, 3]),
        ((100, 3), 10, [9, 1]),
        ((3, 3), 4, [2, 2]),
        ((2, 2), 3, [1, 1]),
        ((1, 1), 1, [0, 0]),
        ((1, 1, 4), 5, [0, 0, 3]),
    ],
)
def test_the_share_of_each_class(sizes, heldout, expected):
    labels = np.repeat(np.arange(len(sizes)), sizes).tolist()
    assert counts(labels, split_by_class(labels, heldout, 0)[1], len(sizes)).tolist() == expected


def test_the_seed_decides_which_pictures_of_a_class_are_held_out_and_their_order():
    labels = [0] * 30 + [1] * 30
    first, again, other = (split_by_class(labels, 20, seed) for seed in (0, 0, 1))
    assert first == again
    assert set(first[1]) != set(other[1])
    assert first[0] != sorted(first[0])  # both parts are shuffled, not class after class
    assert first[1] != sorted(first[1])


def test_gaps_are_named_by_part():
    assert gaps(np.array([0, 1]), np.array([0, 1]), ["cat", "dog"]) == []
    (sentence,) = gaps(np.array([0, 1]), np.array([0, 0]), ["cat", "dog"])
    assert "1 of 2 classes have no held-out picture: dog." in sentence
    both = gaps(np.array([0]), np.array([0]), ["cat", "dog"])
    assert ["training" in both[0], "held-out" in both[1]] == [True, True]


def test_the_digits_keep_their_split_and_their_content_hash():
    """Figures were measured on them. The sums were taken before splits went class by class."""
    dataset = digits()
    assert dataset.manifest.content_hash == "e376e1b7d5faa2362db8f1db9bf32982d0916a769a2f3afbb37748e9be2c6f9c"
    parts = content_hash(dataset.train_x, dataset.train_y, dataset.heldout_x, dataset.heldout_y)
    assert parts == "0f9b2eab14a83f5324e43e37653b10962f7359b55415289a57c3155e7b9f36df"
