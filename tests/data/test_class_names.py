"""Classes keep the names of their folders: in the manifest, on the terminal, in a checkpoint, a model and a page."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from commands import decm, only, train
from decm.cli.latents import task
from decm.data.arrays import folder
from decm.data.image_files import class_folders, find_images
from decm.data.making.latent_sets import finish_set, write_set
from decm.data.manifest import Manifest, manifest_of, read_manifest
from decm.generator.card import card
from decm.generator.checkpoints import read_checkpoint
from decm.generator.model import Generator
from decm.settings.composition import compose
from latent_sets import Numbered, numbered_plan

NUMBERS = [str(k) for k in range(12)]


def pictures(root, names, each=4):
    """A folder of pictures for each name; those of the k-th name are of brightness 20 k."""
    for k, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(each):
            Image.new("L", (8, 8), 20 * k).save(root / name / f"{i}.png")
    return root


def make(root, out, *settings):
    return decm("data", f"images={root}", "size=8", "channels=1", "heldout=0.25", f"out={out}", *settings)


def brightness(dataset):
    """{label: the brightness of its pictures}, which is what their folder says."""
    x = dataset.train_x * dataset.manifest.std[0] + dataset.manifest.mean[0]
    return {
        label: round(float(x[dataset.train_y == label].mean()) * 255) for label in dataset.train_y.unique().tolist()
    }


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (NUMBERS, NUMBERS),
        (["010", "2", "1"], ["1", "2", "010"]),
        (["10", "9", "b"], ["10", "9", "b"]),  # not all are numbers
        (["n02", "n01"], ["n01", "n02"]),
        (["1.5", "10", "9"], ["1.5", "10", "9"]),
        (["²", "10", "9"], ["10", "9", "²"]),
    ],
)
def test_names_that_are_all_numbers_sort_as_numbers(tmp_path, names, expected):
    pictures(tmp_path, names, each=1)
    assert class_folders(tmp_path) == tuple(expected)
    labels = {image.path.parent.name: image.label for image in find_images(tmp_path)[0]}
    assert labels == {name: k for k, name in enumerate(expected)}


def test_folders_0_to_11_are_the_labels_0_to_11_and_the_names_are_written_and_printed(tmp_path):
    answer = make(pictures(tmp_path / "pictures", NUMBERS), tmp_path / "set")
    assert answer.code == 0, answer.said
    dataset = folder(str(tmp_path / "set"))
    assert brightness(dataset) == {k: 20 * k for k in range(12)}
    assert dataset.manifest.class_names == tuple(NUMBERS)
    assert "12 classes (0: 0, 1: 1, " in answer.out
    assert "11: 11)" in answer.out


def test_a_text_file_names_the_classes_instead(tmp_path):
    root, names = pictures(tmp_path / "pictures", ["n01", "n02"]), tmp_path / "names.txt"
    names.write_text("tench\ngoldfish, gold\n\n", encoding="utf-8-sig")  # with the mark that some editors put first
    answer = make(root, tmp_path / "set", f"class_names={names}")
    assert "(0: tench, 1: goldfish, gold)" in answer.out
    assert read_manifest(tmp_path / "set").class_names == ("tench", "goldfish, gold")
    for text, said in (
        (b"a\n\nb", "line 2 is empty"),
        (b"", "it is empty"),
        (b"\xff\xfe", "cannot be read"),
        (b"a\nb\nc", "has 3 names, for 2 classes"),
    ):
        names.write_bytes(text)
        answer = make(root, tmp_path / "other", f"class_names={names}")
        assert answer.code == 2, answer.said
        assert said in answer.err
    assert "cannot be read" in make(root, tmp_path / "other", "class_names=nowhere.txt").err
    assert not (tmp_path / "other").exists()


def test_the_name_of_a_folder_in_the_line_of_another_is_refused(tmp_path):
    """The folders' own names in another order would call each class by another's name."""
    root, names = pictures(tmp_path / "pictures", ["airplane", "cat", "dog"]), tmp_path / "names.txt"
    for lines in ("dog\ncat\nairplane", "Dog\ncat", "airplane\ndog\ncat"):
        names.write_text(lines)
        for words in (
            ["data", f"images={root}", "size=8"],
            ["latents", "encode", f"source={root}", f"weights={names}"],
        ):
            answer = decm(*words, f"out={tmp_path / 'set'}", f"class_names={names}")
            assert (answer.code, "is the folder" in answer.err) == (2, True), answer.said
            assert not (tmp_path / "set").exists()
    names.write_text("Airplane\ncat\nhound")
    assert make(root, tmp_path / "set", f"class_names={names}").code == 0
    assert read_manifest(tmp_path / "set").class_names == ("Airplane", "cat", "hound")


def test_sets_of_latents_have_names_too(tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\n")
    for out, settings, expected in (
        ("plain", [], ("class_0", "class_1", "class_2")),
        ("named", [f"class_names={names}"], ("a", "b", "c")),
    ):
        made = tmp_path / out
        task(compose("latents", ["action=synth", f"out={made}", "num=6", "shape=[2,4,4]", "num_classes=3", *settings]))
        assert read_manifest(made).class_names == expected
        assert f"3 classes (0: {expected[0]}, 1: {expected[1]}, 2: {expected[2]})" in capsys.readouterr().out
    task(compose("latents", ["action=check", f"path={tmp_path / 'named'}"]))
    assert "3 classes (0: a, 1: b, 2: c)" in capsys.readouterr().out


def test_a_set_of_latents_that_was_begun_is_not_finished_under_other_names(tmp_path):
    plan = replace(numbered_plan(), class_names=("a", "b", "c"))
    for _ in range(2):
        write_set(tmp_path, plan, Numbered(), 0, 1, lambda samples: None)
    with pytest.raises(ValueError, match="class_names differ"):
        write_set(tmp_path, replace(plan, class_names=("b", "a", "c")), Numbered(), 0, 1, lambda samples: None)
    assert finish_set(tmp_path, plan).class_names == ("a", "b", "c")


def test_the_content_hash_is_of_the_data_and_not_of_what_they_are_called(tmp_path):
    root = pictures(tmp_path / "pictures", ["cat", "dog"])
    make(root, tmp_path / "set")
    (root / "cat").rename(root / "chat")
    make(root, tmp_path / "again")
    (root / "chat").rename(root / "zebra")  # now it is label 1
    make(root, tmp_path / "swapped")
    first, again, swapped = (read_manifest(tmp_path / name) for name in ("set", "again", "swapped"))
    assert first.class_names != again.class_names
    assert first.content_hash == again.content_hash != swapped.content_hash


MANIFEST = Manifest(
    name="set",
    shape=(1, 8, 8),
    num_classes=3,
    mean=(0.5,),
    std=(0.5,),
    split={"train": 9},
    content_hash="hash",
    origin="here",
    extra={},
    class_names=("cat", "dog"),
)


def test_a_manifest_without_names_is_read_and_one_of_wrong_names_is_not(tmp_path):
    facts = MANIFEST.metadata()
    assert manifest_of(facts) == MANIFEST
    assert manifest_of({**facts, "class_names": None}).class_names is None
    del facts["class_names"]
    assert manifest_of(facts) == replace(MANIFEST, class_names=None)  # as an earlier version wrote it
    for wrong in ("cat", ["cat", 1], ["cat", ""], list("abcd"), 3):
        with pytest.raises(ValueError, match="class_names"):
            manifest_of({**facts, "class_names": wrong})


def test_the_listing_is_short_and_every_name_in_it_is_harmless():
    def listing(*names, num_classes=None):
        return replace(MANIFEST, num_classes=num_classes or len(names), class_names=names or None).classes()

    assert MANIFEST.classes() == "3 classes (0: cat, 1: dog, 2: -)"
    assert listing(num_classes=3) == "3 classes without names"
    many = listing(*(f"n{k:04d}" for k in range(1000)))
    assert many.startswith("1000 classes (0: n0000, 1: n0001, ")
    assert many.endswith("..., 994: n0994, 995: n0995, 996: n0996, 997: n0997, 998: n0998, 999: n0999)")
    assert listing("a\nb\x1b[31m", "\udcff") == r"2 classes (0: a\nb\x1b[31m, 1: \udcff)"
    assert len(listing("x" * 300)) < 80
    assert MANIFEST.labels() == ["cat", "dog", "label 2"]


def test_names_travel_from_the_folders_to_checkpoint_model_card_page_and_samples(tmp_path, finished):
    """One short training on ten named classes; the digit classifier judges it."""
    names = [f"number `{k}` <b>" for k in range(10)]
    make(pictures(tmp_path / "pictures", names, each=12), tmp_path / "set")
    shutil.copytree(finished.runs / "cache", tmp_path / "runs" / "cache")
    settings = [
        "data=folder",
        f"data.path={tmp_path / 'set'}",
        "teacher=none",
        "method=fm",
        "max_steps=2",
        "report=true",
    ]
    answer = train(tmp_path / "runs", *settings)
    assert answer.code == 0, answer.said
    run = only(tmp_path / "runs" / "smoke")
    assert read_checkpoint(run)["manifest"]["class_names"] == names
    text = (run / "report.html").read_text()
    assert "number `3` &lt;b&gt;" in text
    assert "<b>" not in text
    model = Generator.from_pretrained(run, device="cpu")
    model.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["data"]["class_names"] == names
    assert "10 classes (`0: number '0' <b>, 1: number '1' <b>, " in (tmp_path / "model" / "README.md").read_text()
    again = Generator.from_pretrained(tmp_path / "model", device="cpu")
    assert np.array_equal(again([names[3], 3, names[0]]), model([3, 3, 0]))


def test_the_cards_example_calls_a_class_by_name_where_it_has_one(model):
    assert 'labels=[0, "1"]' in card(model.config)
    assert "labels=[0, 1]" in card({**model.config, "data": {**model.config["data"], "class_names": None}})
    assert "10 classes without names" in card({**model.config, "data": {**model.config["data"], "class_names": None}})


def test_sample_takes_names_and_labels(finished, tmp_path):
    def sample(labels):
        answer = decm("sample", f"checkpoint={finished.folder}", f"labels={labels}", "nfe=1", "rows=2", f"out={out}")
        return answer, out.read_bytes() if out.is_file() else b""

    out = tmp_path / "a.png"
    expected = sample("[1,0,9]")[1]
    assert expected
    assert sample('["1",0,"9"]')[1] == expected
    assert sample("[2,0,9]")[1] != expected
    out.unlink()
    for labels, said in (
        ('["11"]', "'11' is the name of no class: close are '1' (1)"),
        ("[cat]", "'cat' is the name of no class"),
        ("[1.5]", "labels[0]=1.5; expected a whole number"),
        ("[true]", "labels[0]=True"),
    ):
        answer, _ = sample(labels)
        assert answer.code == 2, answer.said
        assert said in answer.err
        assert re.search("Traceback", answer.said) is None
    assert not out.exists()
