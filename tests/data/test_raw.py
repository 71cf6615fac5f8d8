"""Arrays of any kind become the same set, or are refused by name before anything is written."""

import logging
import re

import numpy as np
import pytest
import torch

from decm.data.arrays import ARRAYS, KEYS, folder, write_arrays
from decm.data.manifest import MANIFEST
from latent_sets import contents

CLASSES = 3
NUM = {"train": 12, "heldout": 5}


def raw(shape=(2, 4, 4), classes=CLASSES):
    """Pixels that are multiples of 1/255, so that uint8 holds them too, and labels; numpy arrays."""
    rng = np.random.default_rng(0)
    x = {f"{key}_x": (rng.integers(0, 256, (num, *shape)) / 255).astype(np.float32) for key, num in NUM.items()}
    return {**x, **{f"{key}_y": np.arange(num) % max(1, classes) for key, num in NUM.items()}}


def write(path, arrays, classes=CLASSES):
    return write_arrays(path, arrays, "raw", classes, "a test")


def each(convert, key="x"):
    return {name: convert(value) if name.endswith(key) else value for name, value in raw().items()}


def big_endian(values):
    return values.astype(values.dtype.newbyteorder(">"))


def read_only(values):
    values = values.copy()
    values.flags.writeable = False
    return values


def strided(values):
    """The same values, which lie apart and backwards in memory."""
    wide = np.zeros((2 * len(values), *values.shape[1:]), values.dtype)[::-2]
    wide[...] = values
    return wide


ANY_ARRAY = [torch.from_numpy, big_endian, read_only, strided, np.asfortranarray]
PIXELS = [
    *ANY_ARRAY, np.float64, lambda x: (x * 255).round().astype(np.uint8), lambda x: torch.from_numpy(x).double(),
    lambda x: torch.from_numpy(x).requires_grad_(), lambda x: (torch.from_numpy(x) * 255).round().byte(),
    lambda x: torch.from_numpy(x).permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
]  # fmt: skip
LABELS = [
    *ANY_ARRAY, np.int8, np.int32, np.uint8, np.uint16, np.uint64, np.float16, np.float32, np.float64,
    lambda y: torch.from_numpy(y).int(), lambda y: torch.from_numpy(y).byte(), lambda y: torch.from_numpy(y).float(),
    lambda y: torch.from_numpy(y).bfloat16(), lambda y: y[:, None], lambda y: torch.from_numpy(y)[:, None].float(),
]  # fmt: skip


@pytest.mark.parametrize(("key", "convert"), [("x", c) for c in PIXELS] + [("y", c) for c in LABELS])
def test_pixels_and_labels_of_every_kind_become_the_same_set(tmp_path, key, convert):
    expected = write(tmp_path / "plain", raw())
    assert write(tmp_path / "other", each(convert, key)).mean == pytest.approx(expected.mean, abs=1e-7)
    plain, other = (folder(str(tmp_path / name)) for name in ("plain", "other"))
    for name in KEYS:
        assert getattr(other, name).dtype == (torch.float32 if name.endswith("x") else torch.int64)
        torch.testing.assert_close(getattr(other, name), getattr(plain, name), atol=1e-5, rtol=0)
    assert other.train_y.tolist() == raw()["train_y"].tolist()


def test_the_content_hash_does_not_depend_on_the_number_of_threads(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"train_x": rng.random((1800, 1, 8, 8), np.float32), "train_y": np.arange(1800) % 3}
    arrays |= {key.replace("train", "heldout"): value[:5] for key, value in arrays.items()}
    before, hashes = torch.get_num_threads(), set()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        hashes.add(write(tmp_path, arrays).content_hash)
    torch.set_num_threads(before)
    assert len(hashes) == 1
    wide = arrays["train_x"].astype(np.float64)
    assert folder(str(tmp_path)).manifest.mean == pytest.approx([wide.mean()], abs=1e-7)
    assert folder(str(tmp_path)).manifest.std == pytest.approx([wide.std(ddof=1)], abs=1e-7)


def test_one_sample_of_one_value_keeps_its_scale(tmp_path):
    x, y = np.full((1, 2, 1, 1), 0.5), np.zeros(1)
    manifest = write(tmp_path, {"train_x": x, "train_y": y, "heldout_x": x, "heldout_y": y})
    assert manifest.std == (1.0, 1.0)


def test_half_precision_pixels_are_normalized_in_single_precision(tmp_path):
    write(tmp_path, each(np.float16))
    dataset = folder(str(tmp_path))
    assert dataset.train_x.mean((0, 2, 3)).abs().max() < 1e-5
    assert (dataset.train_x.std((0, 2, 3)) - 1).abs().max() < 1e-5


def test_bool_labels_are_two_classes_and_an_unconditional_set_has_zeros(tmp_path):
    arrays = raw(classes=2)
    write(tmp_path / "bool", arrays | {key: arrays[key].astype(bool) for key in ("train_y", "heldout_y")}, 2)
    assert folder(str(tmp_path / "bool")).train_y.tolist() == arrays["train_y"].tolist()
    write(tmp_path / "none", raw(classes=1), 0)
    assert folder(str(tmp_path / "none")).train_y.tolist() == [0] * NUM["train"]


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
}  # fmt: skip


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
        ({"num_classes": -1}, "label"),
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


def test_facts_of_numpy_types_are_written_as_json_has_them(tmp_path):
    write_arrays(tmp_path, raw(), str(np.str_("raw")), np.int64(3), "here", [np.str_("a"), "b"])
    assert folder(str(tmp_path)).manifest.class_names == ("a", "b")


def test_a_place_that_is_a_file_or_holds_a_set_of_another_kind_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/below"):
        with pytest.raises(ValueError, match="is a file, or lies below one"):
            write(tmp_path / place, raw())
    write(tmp_path / "set", raw())
    (tmp_path / "set" / ARRAYS).unlink()  # such as a set of latents
    before = contents(tmp_path / "set")
    with pytest.raises(ValueError, match="holds a set of another kind"):
        write(tmp_path / "set", raw())
    assert contents(tmp_path / "set") == before


def test_a_split_of_ones_own_that_lacks_a_class_is_told(tmp_path, caplog):
    arrays = raw()
    arrays["train_y"] = np.where(arrays["train_y"] == 1, 2, arrays["train_y"])
    with caplog.at_level(logging.WARNING):
        write_arrays(tmp_path / "a", raw(), "whole", 3, "here", ["a", "b", "c"])
    assert caplog.messages == []
    with caplog.at_level(logging.WARNING):
        write_arrays(tmp_path / "b", arrays, "gap", 3, "here", ["ant", "bee"])
    assert caplog.messages == ["1 of 3 classes have no training picture: bee."]


def test_a_set_is_replaced_by_a_complete_one(tmp_path):
    write(tmp_path, raw())
    write(tmp_path, each(lambda x: 1 - x))
    assert sorted(contents(tmp_path)) == [ARRAYS, MANIFEST]
    torch.testing.assert_close(
        folder(str(tmp_path)).train_x * torch.tensor(folder(str(tmp_path)).manifest.std)[:, None, None]
        + torch.tensor(folder(str(tmp_path)).manifest.mean)[:, None, None],
        torch.from_numpy(1 - raw()["train_x"]),
    )  # fmt: skip


def test_a_set_written_with_other_types_of_labels_still_loads_and_damage_is_named(tmp_path):
    """As an earlier version wrote them."""
    from dataclasses import replace

    from safetensors.torch import load_file, save_file

    from decm.data.manifest import content_hash, read_manifest

    def rewrite(**changes):
        arrays = load_file(tmp_path / ARRAYS) | changes
        save_file(arrays, tmp_path / ARRAYS)
        hashed = content_hash(*(arrays[key] for key in KEYS))
        replace(read_manifest(tmp_path), content_hash=hashed).write(tmp_path)

    write(tmp_path, raw())
    expected = folder(str(tmp_path))
    rewrite(train_y=expected.train_y.int(), heldout_y=expected.heldout_y[:, None].float())
    loaded = folder(str(tmp_path))
    assert loaded.train_y.dtype == loaded.heldout_y.dtype == torch.int64
    assert torch.equal(loaded.train_y, expected.train_y)
    assert torch.equal(loaded.heldout_y, expected.heldout_y)
    rewrite(heldout_x=expected.heldout_x.clone().fill_(torch.nan))
    with pytest.raises(ValueError, match=r"heldout_x has .* values that are not finite"):
        folder(str(tmp_path))
    (tmp_path / ARRAYS).write_bytes((tmp_path / ARRAYS).read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{ARRAYS} cannot be read"):
        folder(str(tmp_path))
