"""From a folder of pictures to a fine-tuned student: `decm data`, then `decm train data=folder warm_start=...`."""

import numpy as np
import pytest
import torch
from PIL import Image

from commands import decm, only, results, train
from decm.data.arrays import folder
from decm.data.manifest import to_pixels
from decm.generator.model import Generator
from latent_sets import write_tar

CLASSES, EACH = ("circles", "lines"), 60


def picture(label, k):
    """A dark picture with a bright square, or a bright one with a dark stripe; each has its own noise."""
    image = np.random.default_rng(1000 * label + k).integers(0, 60, (10, 8 + k % 3, 3), dtype=np.uint8)
    if label == 0:
        image[3:7, 2:6] += 180
    else:
        image = 255 - image
        image[:, 3:5] = 0
    return Image.fromarray(image)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for label, name in enumerate(CLASSES):
        (root / name).mkdir()
        for k in range(EACH):
            picture(label, k).save(root / name / f"{k:03d}.png")
    return root


@pytest.fixture(scope="module")
def mine(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "mine"
    answer = decm("data", f"images={pictures}", "size=8", "channels=1", "num_classes=10", "heldout=0.25", f"out={out}")
    assert answer.code == 0, answer.said
    assert f"data=folder data.path={out}" in answer.out
    return out


def refused(answer, *said):
    assert answer.code == 2, answer.said
    assert "Traceback" not in answer.said
    assert [words for words in said if words not in answer.err] == []


def test_the_set_is_the_pictures_with_the_class_of_their_folder(mine):
    dataset = folder(str(mine))
    manifest = dataset.manifest
    assert (manifest.shape, manifest.num_classes, manifest.split) == ((1, 8, 8), 10, {"train": 90, "heldout": 30})
    x, y = torch.cat([dataset.train_x, dataset.heldout_x]), torch.cat([dataset.train_y, dataset.heldout_y])
    assert y.bincount().tolist() == [EACH, EACH]
    assert 0 < dataset.heldout_y.float().mean() < 1  # of both classes
    means = to_pixels(x, manifest).float().mean((1, 2, 3))
    assert means[y == 0].max() < means[y == 1].min()
    assert dataset.train_x.mean().abs() < 1e-5
    assert abs(float(dataset.train_x.std()) - 1) < 1e-2


def test_every_class_is_in_both_parts_whatever_the_seed(tmp_path, caplog):
    """One large and three small classes: a split of all together would leave some of them out."""
    for label, num in enumerate((30, 2, 2, 1)):
        (tmp_path / "images" / f"class{label}").mkdir(parents=True)
        for k in range(num):
            picture(0, k).save(tmp_path / "images" / f"class{label}" / f"{k}.png")
    settings = [f"images={tmp_path / 'images'}", "size=4", "heldout=0.2", "overwrite=true", f"out={tmp_path / 'out'}"]
    for seed in range(4):
        caplog.clear()
        assert decm("data", *settings, f"seed={seed}").code == 0
        dataset = folder(str(tmp_path / "out"))
        assert dataset.train_y.bincount(minlength=4).tolist() == [25, 1, 1, 1]
        assert dataset.heldout_y.bincount(minlength=4).tolist() == [5, 1, 1, 0]
        assert caplog.messages == ["1 of 4 classes have no held-out picture: class3."]


def test_a_share_that_would_empty_a_class_is_cut_and_told(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for k in range(2):
            picture(0, k).save(tmp_path / "images" / name / f"{k}.png")
    settings = [f"images={tmp_path / 'images'}", "size=4", f"out={tmp_path / 'out'}"]
    answer = decm("data", *settings, "heldout=0.75")
    assert answer.code == 0, answer.said
    assert "would leave classes without training images: held out are 2" in answer.out
    for name in ("a", "b"):
        (tmp_path / "images" / name / "1.png").unlink()
    refused(decm("data", *settings, "heldout=0.5", "overwrite=true"), "has a single image")
    assert folder(str(tmp_path / "out")).manifest.split == {"train": 2, "heldout": 2}


def test_labels_of_tars_that_are_no_classes_are_refused_before_a_picture_is_read(tmp_path):
    (tmp_path / "images").mkdir()
    write_tar(tmp_path / "images" / "a.tar", {"0.png": b"none", "0.cls": b"-1", "1.png": b"none", "1.cls": b"0"})
    answer = decm("data", f"images={tmp_path / 'images'}", "size=4", "heldout=0.5", f"out={tmp_path / 'out'}")
    refused(answer, "a.tar", "label is b'-1'")
    assert not (tmp_path / "out").exists()


def test_color_keeps_three_channels_and_another_seed_splits_otherwise(pictures, tmp_path):
    for seed in (0, 1):
        assert decm("data", f"images={pictures}", "size=4", f"seed={seed}", f"out={tmp_path / str(seed)}").code == 0
    first, second = (folder(str(tmp_path / str(seed))) for seed in (0, 1))
    assert first.manifest.shape == (3, 4, 4)
    assert first.manifest.split == {"train": 108, "heldout": 12}
    assert not torch.equal(first.heldout_y, second.heldout_y) or not torch.equal(first.heldout_x, second.heldout_x)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["heldout=0"], "holds out 0"),
        (["heldout=0.999"], "at least one image in each part"),
        (["channels=2"], "1 or 3 channels"),
        (["num_classes=1"], "num_classes=1, but"),
        (["size=20000"], "decm latents encode"),
        (["images=nowhere"], "is no folder"),
    ],
)
def test_a_set_that_cannot_be_made_is_refused(pictures, tmp_path, overrides, said):
    refused(decm("data", f"images={pictures}", "size=8", f"out={tmp_path / 'out'}", *overrides), said)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def mixed(tmp_path):
    """Two classes of three pictures, beside and among files that are none."""
    root = tmp_path / "images"
    for label, name in enumerate(CLASSES):
        (root / name / ".cache").mkdir(parents=True)
        for k in range(3):
            picture(label, k).save(root / name / f"{k}.png")
        (root / name / ".cache" / "0.png").write_bytes(b"hidden")
        (root / name / "._0.png").write_bytes(b"hidden")
    (root / "__MACOSX" / "circles").mkdir(parents=True)
    (root / "__MACOSX" / "circles" / "._0.png").write_bytes(b"hidden")
    picture(0, 0).save(root / "circles" / "moving.GIF")
    for name in ("lines/notes.txt", "LICENSE", "stray.png"):
        (root / name).write_bytes(b"text")
    return root


def test_what_is_no_picture_of_a_class_is_skipped_and_told(mixed, tmp_path):
    answer = decm("data", f"images={mixed}", "size=8", "heldout=0.4", f"out={tmp_path / 'out'}")
    assert answer.code == 0, answer.said
    assert "as no images of a class: 1 .gif, 1 .png, 1 .txt, 1 without suffix." in answer.out
    manifest = folder(str(tmp_path / "out")).manifest
    assert (manifest.num_classes, manifest.split) == (2, {"train": 4, "heldout": 2})


@pytest.mark.parametrize("name", [None, "moving.gif", "deeper/notes.txt"])
def test_a_class_without_a_picture_is_refused_by_name(mixed, tmp_path, name):
    (mixed / "moving" / "deeper").mkdir(parents=True)
    if name is not None:
        (mixed / "moving" / name).write_bytes(b"text")
    answer = decm("data", f"images={mixed}", "size=8", "heldout=0.4", f"out={tmp_path / 'out'}")
    refused(answer, f"images='{mixed}'", "1 of 3 class folders (moving) hold no image")
    assert not (tmp_path / "out").exists()


def test_the_folder_is_refused_by_the_name_of_its_setting(tmp_path):
    settings = ["size=8", f"out={tmp_path / 'out'}"]
    refused(decm("data", "images=nowhere", *settings), "images='nowhere' is no folder")
    refused(decm("data", f"images={tmp_path}", *settings), f"images='{tmp_path}' has no images")


def test_a_broken_picture_is_named_and_a_set_is_not_overwritten(pictures, tmp_path):
    (tmp_path / "images" / "a").mkdir(parents=True)
    for k in range(3):
        picture(0, k).save(tmp_path / "images/a" / f"{k}.png")
    settings = [f"images={tmp_path / 'images'}", "size=8", f"out={tmp_path / 'out'}", "heldout=0.4"]
    assert decm("data", *settings).code == 0
    before = (tmp_path / "out/manifest.json").read_text()
    refused(decm("data", *settings, "size=4"), "holds a data set already", "overwrite=true")
    assert (tmp_path / "out/manifest.json").read_text() == before
    (tmp_path / "images/a/1.png").write_bytes(b"no picture")
    refused(decm("data", *settings, "overwrite=true"), "1.png cannot be decoded")
    (tmp_path / "images/a/1.png").unlink()
    assert decm("data", *settings, "size=4", "overwrite=true").code == 0
    assert (tmp_path / "out/manifest.json").read_text() != before


IMAGES = [
    "evaluation=images",
    "evaluation.protocol.reference=null",
    "evaluation.protocol.features=random_small",
    "evaluation.protocol.spatial=false",
    "evaluation.nfe=[1]",
    "evaluation.num_samples=12",
    "evaluation.every=0",
    "evaluation.preview_every=0",
]


def fine_tune(mine, finished, runs, *overrides):
    """(what was said, the run folder) of the finished student, trained on with the set."""
    start = ["data=folder", f"data.path={mine}", "teacher=none", f"warm_start={finished.folder}", "ema.decay=0.9"]
    answer = train(runs, *start, *overrides)
    assert answer.code == 0, answer.said
    assert f"The student starts from {finished.folder}" in answer.out
    return only(runs / "smoke")


def contrast(generator):
    """How much brighter samples of the second class are."""
    dark, bright = (float(generator(labels=[label] * 20, steps=8).mean()) for label in (0, 1))
    return bright - dark


@pytest.mark.slow
def test_a_student_of_digits_is_fine_tuned_on_them_from_end_to_end(mine, finished, tmp_path):
    """The digit classifier's protocol takes 1x8x8 of 10 classes; the exported generator needs the set no more."""
    settings = ["method=fm", "max_steps=300", "optimizer.lr=1e-2", "trainer.checkpoint_every=300"]
    run = fine_tune(mine, finished, tmp_path / "runs", *settings)
    assert set(results(run)["student"]) == {"1", "2"}
    assert decm("export", f"run={run}", f"out={tmp_path / 'model'}").code == 0
    tuned, before = (Generator.from_pretrained(path, device="cpu") for path in (tmp_path / "model", finished.folder))
    assert tuned.manifest == folder(str(mine)).manifest
    assert contrast(tuned) > 60
    assert abs(contrast(before)) < 20


@pytest.mark.slow
def test_the_bench_of_images_takes_the_set_too(mine, finished, tmp_path):
    run = fine_tune(mine, finished, tmp_path / "runs", "method=mean_flow", "max_steps=2", *IMAGES)
    assert set(results(run)["student"]) == {"1"}
    assert "RANDOM small features" in results(run)["reference"]


def test_a_network_of_other_classes_is_refused_with_what_to_do(mine, finished, tmp_path, pictures):
    out = tmp_path / "two"
    assert decm("data", f"images={pictures}", "size=8", "channels=1", f"out={out}").code == 0
    settings = ["data=folder", f"data.path={out}", "teacher=none", "method=fm", f"warm_start={finished.folder}"]
    refused(train(tmp_path / "runs", *settings), "2 classes", "the network expects")
    answer = train(tmp_path / "runs", *settings, "network.num_classes=2")
    refused(answer, "network.num_classes is 2, was 10")
