"""Arrays that cannot be trained on are refused by name before anything is written."""

import re

import numpy as np
import pytest
import torch

from decm.data.arrays import write_arrays
from latent_sets import contents
from raw_arrays import CLASSES, each, raw, write


def spoiled(key, value):
    values = raw()[key].copy()
    values[1, 1, 2, 3] = value
    return {key: values}


def one_hot(y):
    return np.eye(CLASSES)[y]


X, Y = raw()["train_x"], raw()["train_y"]
REFUSED = {
    "NaN in training": (spoiled("train_x", np.nan), "train_x: 1 of 12 pictures", "number 1"),
    "infinity held out": (spoiled("heldout_x", np.inf), "heldout_x: 1 of 5 pictures", "not finite"),
    "held-out of another size": ({"heldout_x": np.zeros((5, 2, 5, 5), np.float32)}, "different shapes", "(2, 5, 5)"),
    "held-out of other channels": ({"heldout_x": np.zeros((5, 3, 4, 4), np.float32)}, "different shapes"),
    "channels last": ({"train_x": np.zeros((12, 8, 8, 3)), "heldout_x": np.zeros((5, 8, 8, 3))}, "[N, H, W, C]", "per"),
    "no channels": ({"train_x": X[:, 0], "heldout_x": raw()["heldout_x"][:, 0]}, "[12, 4, 4]", "x[:, None]"),
    "one picture": ({"train_x": X[0]}, "expected [N, C, H, W]"),
    "pixels to 255": (each(lambda x: x * 255), "train_x lies in [0, 255]", "uint8"),
    "pixels from -1": (each(lambda x: 2 * x - 1), "[-1, 1]", "(x + 1) / 2"),
    "int64 pixels": (each(lambda x: (x * 255).astype(np.int64)), "train_x is of type int64", "uint8 pixels"),
    "bool pixels": (each(lambda x: x > 0.5), "train_x is of type bool"),
    "complex pixels": (each(lambda x: x.astype(complex)), "train_x is of type complex128"),
    "a mask as uint8": (each(lambda x: (x > 0.5).astype(np.uint8)), "uint8 and at most 1", "times 255"),
    "two types": ({"train_x": (X * 255).astype(np.uint8)}, "different types", "uint8"),
    "empty training": ({"train_x": X[:0], "train_y": Y[:0]}, "train_x", "not empty"),
    "nothing held out": ({"heldout_x": X[:0], "heldout_y": Y[:0]}, "heldout_x", "not empty"),
    "a list": ({"train_x": X.tolist()}, "train_x is of type list", "numpy array"),
    "nothing": ({"heldout_y": None}, "heldout_y is of type NoneType"),
    "masked": ({"train_y": np.ma.masked_equal(Y, 1)}, "train_y has masked values"),
    "sparse": ({"train_x": torch.from_numpy(X).to_sparse()}, "train_x is a tensor"),
    "on no device": ({"train_y": torch.zeros(12, dtype=torch.long, device="meta")}, "train_y is a tensor", "be read"),
    "one-hot": ({"train_y": one_hot(Y)}, "train_y has the shape [12, 3]", "one-hot", "argmax(1)"),
    "two columns": ({"train_y": np.stack([Y, Y], 1)}, "expected [N]"),
    "a row of labels": ({"train_y": Y[None]}, "[1, 12]"),
    "a number": ({"train_y": np.array(1)}, "has the shape []"),
    "fractions": ({"heldout_y": np.array([0, 1, 1.5, 2, 0])}, "heldout_y: label 2 is 1.5", "whole numbers, 0 to 2"),
    "NaN label": ({"heldout_y": np.array([0, 1, np.nan, 2, 0])}, "heldout_y: label 2 is nan"),
    "negative": ({"train_y": Y - 1}, "train_y: label 0 is -1"),
    "beyond the classes": ({"heldout_y": np.array([0, 3, 0, 0, 0])}, "heldout_y: label 1 is 3", "num_classes"),
    "huge": ({"train_y": np.full(12, 2**64 - 1, np.uint64)}, "train_y: label 0 is 18446744073709551615"),
    "names": ({"train_y": np.array(["cat"] * 12)}, "train_y is of type <U3"),
    "objects": ({"train_y": np.array([None] * 12)}, "train_y is of type object"),
    "fewer labels": ({"train_y": Y[:-1]}, "train_y has 11 labels; expected 12 labels"),
    "more labels": ({"heldout_y": Y}, "heldout_y has 12 labels; expected 5 labels"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_trained_on_is_refused_before_anything_is_written(tmp_path, what):
    change, *said = REFUSED[what]
    write(tmp_path / "set", raw())
    before = contents(tmp_path / "set")
    for place in ("set", "new"):
        with pytest.raises(ValueError, match=re.escape(said[0])) as stop:
            write(tmp_path / place, raw() | change)
        assert [words for words in said if words not in str(stop.value)] == []
    assert contents(tmp_path / "set") == before  # an existing set stays as it is
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"num_classes": 2.0}, "num_classes=2.0; expected a whole number"),
        ({"num_classes": True}, "num_classes=True"),
        ({"num_classes": -1}, "num_classes=-1; expected 0 to 1,000,000"),
        ({"num_classes": 10**9}, "num_classes=1000000000; expected 0 to 1,000,000"),
        ({"name": 3}, "name=3; expected a text"),
        ({"origin": None}, "origin=None; expected a text"),
        ({"class_names": "abc"}, "class_names is 'abc'; expected a list"),
        ({"class_names": ["a", 1]}, "expected a list of names"),
        ({"class_names": list("abcd")}, "4 names, for 3 classes"),
    ],
)
def test_facts_that_cannot_be_are_refused_before_anything_is_written(tmp_path, facts, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        write_arrays(
            **{"path": tmp_path / "set", "arrays": raw(), "name": "raw", "num_classes": 3, "origin": "here"} | facts
        )
    assert list(tmp_path.iterdir()) == []
