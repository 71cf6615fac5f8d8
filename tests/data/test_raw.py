"""Arrays of any kind become the same set, or are refused by name before anything is written."""

import logging

import numpy as np
import pytest
import torch

from decm.data.arrays import ARRAYS, KEYS, folder, write_arrays
from decm.data.manifest import MANIFEST
from latent_sets import contents
from raw_arrays import NUM, each, raw, write


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
    *ANY_ARRAY,
    np.float64,
    lambda x: (x * 255).round().astype(np.uint8),
    lambda x: torch.from_numpy(x).double(),
    lambda x: torch.from_numpy(x).requires_grad_(),
    lambda x: (torch.from_numpy(x) * 255).round().byte(),
    lambda x: torch.from_numpy(x).permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
]
LABELS = [
    *ANY_ARRAY,
    np.int8,
    np.int32,
    np.uint8,
    np.uint16,
    np.uint64,
    np.float16,
    np.float32,
    np.float64,
    lambda y: torch.from_numpy(y).int(),
    lambda y: torch.from_numpy(y).byte(),
    lambda y: torch.from_numpy(y).float(),
    lambda y: torch.from_numpy(y).bfloat16(),
    lambda y: y[:, None],
    lambda y: torch.from_numpy(y)[:, None].float(),
]


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
    )


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
