"""CIFAR-10's archive: its pictures as they are, and nothing in its pickles is executed."""

import os
import pickle
import tarfile

import numpy as np
import pytest
import torch

from commands import TINY, decm
from decm.data.manifest import to_pixels
from decm.data.published import ARCHIVE, BATCHES, CIFAR
from decm.data.sets.cifar import cifar10

NAMES = [name for names in BATCHES.values() for name in names]
EACH = 20


def content(k, **changes):
    """A batch as the archive has it."""
    draw = np.random.default_rng(k)
    pictures = draw.integers(0, 256, (EACH, 3072), dtype=np.uint8)
    return {
        b"batch_label": b"made",
        b"labels": [i % 10 for i in range(EACH)],
        b"data": pictures,
        b"filenames": [],
    } | changes


def made(root, protocol=2, packed=False, **batches):
    """A folder, or an archive, of small batches; those of `batches` are bytes, or dictionaries, in their place."""
    folder = root / CIFAR
    folder.mkdir(parents=True)
    for k, name in enumerate(NAMES):
        one = batches.get(name, content(k))
        (folder / name).write_bytes(one if isinstance(one, bytes) else pickle.dumps(one, protocol=protocol))
    if not packed:
        return folder
    with tarfile.open(root / ARCHIVE, "w:gz") as tar:
        tar.add(folder, CIFAR)
    for name in NAMES:
        (folder / name).unlink()
    folder.rmdir()
    return root / ARCHIVE


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("named", ["root", "itself"])
def test_pictures_and_labels_are_those_of_the_batches(tmp_path, protocol, packed, named):
    place = made(tmp_path, protocol, packed)
    data = cifar10(str(tmp_path if named == "root" else place))
    expected = np.concatenate([content(k)[b"data"] for k in range(5)]).reshape(-1, 3, 32, 32)
    assert (to_pixels(data.train_x, data.manifest).numpy() == expected).all()
    assert data.heldout_y.tolist() == [i % 10 for i in range(EACH)]
    assert data.manifest.split == {"train": 5 * EACH, "heldout": EACH}


class Hostile:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("where", ["data", "labels", "whole"])
def test_a_foreign_object_is_refused_and_never_called(tmp_path, where):
    trap = Hostile(tmp_path / "called")
    hostile = pickle.dumps(trap if where == "whole" else content(0, **{}) | {where.encode(): trap})
    pickle.loads(hostile)  # the trap works
    assert (tmp_path / "called").exists()
    (tmp_path / "called").unlink()
    made(tmp_path, data_batch_3=hostile)
    with pytest.raises(ValueError, match=r"data_batch_3 .* nothing was executed: it names posix\.system"):
        cifar10(str(tmp_path))
    assert not (tmp_path / "called").exists()


def test_an_encoding_is_never_looked_up(tmp_path):
    """`_codecs.encode` of a file gives latin-1, whatever it names."""
    good = pickle.dumps(content(0), protocol=2)
    assert b"_codecs" in good
    made(tmp_path, data_batch_1=good.replace(b"latin1", b"idna00"))
    assert (cifar10(str(tmp_path)).stored["train_x"][:EACH].numpy().reshape(EACH, -1) == content(0)[b"data"]).all()


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (pickle.dumps(content(0))[:-40], "test_batch is "),
        (b"", "test_batch is "),
        (content(0, **{"labels": [1]}), "20 pictures and"),
        ({b"data": np.zeros((4, 10), np.uint8), b"labels": [0] * 4}, "no `data` of uint8"),
        ({b"data": np.zeros((4, 3072), np.float32), b"labels": [0] * 4}, "no `data` of uint8"),
        ({b"data": np.zeros((4, 3072), np.uint8), b"labels": [0] * 3}, "4 pictures and 3 labels"),
        ({b"data": np.zeros((4, 3072), np.uint8), b"labels": [10] * 4}, "heldout_y"),
        ([1, 2], "test_batch is damaged"),
    ],
)
def test_what_is_no_batch_is_named(tmp_path, batch, said):
    made(tmp_path, test_batch=batch)
    if isinstance(batch, dict) and "labels" in batch:
        batch.pop(b"labels")
        (tmp_path / CIFAR / "test_batch").write_bytes(pickle.dumps(batch))
    with pytest.raises(ValueError, match=said):
        cifar10(str(tmp_path))


def test_a_missing_batch_and_a_damaged_archive_are_named(tmp_path):
    folder = made(tmp_path / "a")
    (folder / "data_batch_2").unlink()
    with pytest.raises(ValueError, match="data_batch_2 cannot be read"):
        cifar10(str(folder))
    archive = made(tmp_path / "b", packed=True)
    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz (cannot be read|has no)"):
        cifar10(str(archive))
    with pytest.raises(ValueError, match=r"not at hand.*data\.download=true"):
        cifar10(str(tmp_path / "none"))


def test_half_of_the_samples_are_mirrored_by_their_number_in_the_run(tmp_path):
    made(tmp_path)
    plain, mirrored = (cifar10(str(tmp_path), flip=flip) for flip in (False, True))
    index = torch.arange(200)
    x, other = plain.batch(3, index)[0], mirrored.batch(3, index)[0]
    same, turned = ((a == other).flatten(1).all(1) for a in (x, x.flip(3)))
    assert (same ^ turned).all()
    assert 70 < int(turned.sum()) < 130
    assert torch.equal(mirrored.batch(3, index[50:60])[0], other[50:60])


def test_the_experiment_runs_on_an_archive_of_that_layout(tmp_path):
    made(tmp_path / "set", packed=True)
    small = ["network.hidden_size=24", "network.depth=1", "network.num_heads=3", "network.patch_size=8"]
    answer = decm(
        "train",
        "experiment=decm_cifar10",
        f"data.path={tmp_path / 'set'}",
        *[word for word in TINY if not word.startswith(("experiment", "network"))],
        *small,
        "teacher.experiment=teacher_smoke",
        "trainer.precision=32-true",
        "evaluation=none",
        f"runs={tmp_path / 'runs'}",
    )
    assert answer.code == 0, answer.said
    dry = decm("train", "experiment=decm_cifar10", "dry_run=true", f"data.path={tmp_path / 'set'}")
    assert dry.code == 0, dry.said
    assert "parameters     3" in dry.out
