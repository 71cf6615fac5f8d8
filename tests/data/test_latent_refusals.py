"""Latents and labels that cannot be trained on are refused when a set is made, and nothing is left of it."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from decm.cli.latents import task
from decm.data.arrays import write_arrays
from decm.data.latents import LatentDataset
from decm.data.manifest import read_manifest
from decm.data.stream import StreamedLatents
from decm.settings.composition import compose
from latent_sets import contents, npy, stored, write_tar

LABELS = [0, 1, 2, 0, 1]


def latents(action, *settings):
    task(compose("latents", [f"action={action}", "record_size=2", "shard_records=1", *settings]))


def lightningdit(folder, labels, x=None):
    """A folder with one file as LightningDiT's extraction writes it."""
    folder.mkdir(exist_ok=True)
    x = torch.arange(5 * 32.0).reshape(5, 2, 4, 4) if x is None else x
    save_file({"latents": x, "latents_flip": -x, "labels": labels}, folder / "latents_rank00_shard000.safetensors")
    return folder


def tar(folder, labels, x=None):
    """A folder with one tar of one record."""
    folder.mkdir(exist_ok=True)
    x = np.arange(5 * 32, dtype=np.float32).reshape(5, 2, 4, 4) if x is None else x
    write_tar(folder / "a.tar", {"0.latents.npy": npy(x), "0.labels.npy": npy(np.asarray(labels))})
    return folder


KINDS = [np.int32, np.uint8, np.float16, np.float64, lambda y: np.asarray(y)[:, None], lambda y: np.float32(y)[:, None]]


@pytest.mark.parametrize("convert", KINDS)
def test_whole_labels_of_every_kind_are_imported_and_streamed(tmp_path, convert):
    labels = convert(LABELS)
    latents(
        "import",
        f"source={lightningdit(tmp_path / 'source', torch.from_numpy(np.asarray(labels)))}",
        f"out={tmp_path / 'set'}",
    )
    assert stored(tmp_path / "set")[2].tolist() == LABELS
    tars = tar(tmp_path / "tars", labels)
    latents("import", f"source={tars}", f"out={tars}")
    assert LatentDataset(tars).records.labels.tolist() == LABELS
    streamed = StreamedLatents(tars)
    _, y = streamed.batch(0, torch.arange(5), streamed.read(0))
    assert (y.dtype, y.tolist()) == (torch.int64, LABELS)


ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]
WRONG_LABELS = [
    (ONE_HOT, [], "one-hot rows: pass their argmax(1)"),
    (np.array([0, 1, 2, 0, 1.5]), [], "label 4 is 1.5"),
    (np.array([0, 1, np.nan, 0, 1]), [], "label 2 is nan"),
    (np.array([0, -1, 2, 0, 1]), [], "label 1 is -1"),
    (np.array(LABELS), ["num_classes=2"], "label 2 is 2; expected whole numbers, 0 to 1"),
    (np.array(LABELS), ["num_classes=0"], "label 1 is 1; expected whole numbers, 0 to 0"),
]


@pytest.mark.parametrize(("labels", "settings", "said"), WRONG_LABELS)
def test_other_labels_are_refused_before_anything_is_written(tmp_path, labels, settings, said):
    source, tars = lightningdit(tmp_path / "source", torch.from_numpy(labels)), tar(tmp_path / "tars", labels)
    for where, out in ((source, tmp_path / "set"), (tars, tars)):
        with pytest.raises(ValueError, match=re.escape(said)) as stop:
            latents("import", f"source={where}", f"out={out}", *settings)
        assert str(where) in str(stop.value)
    assert not (tmp_path / "set").exists()
    assert not (tars / "manifest.json").exists()


def test_a_mended_shard_is_imported_after_a_refusal(tmp_path):
    """An index that was made of the bad one would refuse it for ever."""
    for wrong in ({"labels": [0, -1, 2, 0, 1]}, {"labels": LABELS, "x": np.full((5, 2, 4, 4), np.nan, np.float32)}):
        tars = tar(tmp_path / "tars", **wrong)
        with pytest.raises(ValueError, match=r"label 1 is -1|a\.tar holds latents that are not finite"):
            latents("import", f"source={tars}", f"out={tars}")
        assert sorted(contents(tars)) == ["a.tar"]
    tar(tars, LABELS)
    latents("import", f"source={tars}", f"out={tars}")
    assert read_manifest(tars).split["train"] == 5


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.full((5, 2, 4, 4), torch.nan), "shard000.safetensors: latents: row "),
        (torch.cat([torch.zeros(4, 2, 4, 4), torch.full((1, 2, 4, 4), torch.inf)]), ": latents: row 4 is not finite"),
        (torch.zeros(5, 8, 8, 4), "looks like [N, H, W, C]"),
        (torch.zeros(5, 4, 4), "expected one kind"),
        (torch.zeros(0, 2, 4, 4), "no latents"),
        (torch.zeros(5, 2, 4, 4, dtype=torch.int32), "expected one kind, F16 or F32"),
    ],
)
def test_other_latents_are_refused_and_nothing_is_left(tmp_path, x, said):
    source = lightningdit(tmp_path / "source", torch.tensor(LABELS)[: len(x)], x)
    with pytest.raises(ValueError, match=re.escape(said)):
        latents("import", f"source={source}", f"out={tmp_path / 'set'}")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_complete_shards_stay_and_a_begun_one_does_not(tmp_path):
    """NaN in the last record: a start with a mended source of the same size goes on."""
    from decm.data.making.latent_sets import Plan

    x = torch.arange(5 * 32.0).reshape(5, 2, 4, 4)
    last = int(
        Plan(name="set", samples=5, shape=(2, 4, 4), dtype="float32", num_classes=3, flip=True, origin="").order()[-1]
    )
    broken = x.clone()
    broken[last, 0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="not finite"):
        latents(
            "import",
            f"source={lightningdit(tmp_path / 'source', torch.tensor(LABELS), broken)}",
            f"out={tmp_path / 'set'}",
        )
    assert [name for name in contents(tmp_path / "set") if name.endswith((".part", "manifest.json"))] == []
    assert (tmp_path / "set" / "shard-000001.tar").is_file()
    latents("import", f"source={lightningdit(tmp_path / 'source', torch.tensor(LABELS), x)}", f"out={tmp_path / 'set'}")
    assert torch.equal(torch.from_numpy(stored(tmp_path / "set")[0]), x)


def test_a_set_of_another_kind_and_a_file_are_not_written_over(tmp_path):
    x, y = np.random.default_rng(0).random((4, 1, 4, 4)), np.array([0, 1, 2, 0])
    write_arrays(tmp_path / "set", {"train_x": x, "train_y": y, "heldout_x": x, "heldout_y": y}, "mine", 3, "here")
    before = contents(tmp_path / "set")
    with pytest.raises(ValueError, match="holds another data set"):
        latents("synth", f"out={tmp_path / 'set'}", "num=4", "shape=[2,4,4]")
    assert contents(tmp_path / "set") == before
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/below"):
        with pytest.raises(ValueError, match="is a file, or lies below one"):
            latents("synth", f"out={tmp_path / place}", "num=4", "shape=[2,4,4]")


def test_num_classes_zero_is_an_unconditional_set_and_less_is_refused(tmp_path):
    latents("synth", f"out={tmp_path / 'set'}", "num=4", "shape=[2,4,4]", "num_classes=0")
    assert read_manifest(tmp_path / "set").num_classes == 0
    assert stored(tmp_path / "set")[2].tolist() == [0] * 4
    with pytest.raises(ValueError, match="num_classes=-1"):
        latents("synth", f"out={tmp_path / 'less'}", "num=4", "shape=[2,4,4]", "num_classes=-1")
    assert not (tmp_path / "less").exists()
