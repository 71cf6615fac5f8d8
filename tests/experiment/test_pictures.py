"""Folders of pictures of any size: trained, judged without a file from outside, or only looked at."""

import pytest
import torch

from commands import TINY, decm, only, results
from decm.data.arrays import folder, write_arrays
from decm.evaluation.judge import ImageJudge
from decm.protocols.pictures import own_pictures

CLASSES = 3


def made(path, shape, heldout=60):
    """A set of noisy pictures whose brightness is their class."""
    draw = torch.Generator().manual_seed(0)

    def part(num):
        labels = torch.arange(num) % CLASSES
        pictures = torch.randint(0, 150, (num, *shape), generator=draw) + 50 * labels[:, None, None, None]
        return pictures.to(torch.uint8), labels

    (x, y), (hx, hy) = part(150), part(heldout)
    arrays = {"train_x": x, "train_y": y, "heldout_x": hx, "heldout_y": hy}
    write_arrays(path, arrays, path.name, CLASSES, "made")
    return path


def trained(path, runs, *overrides):
    """The answer of a short run on that set."""
    C, *sides = folder(str(path)).manifest.shape
    return decm(
        "train",
        *TINY,
        "data=folder",
        f"data.path={path}",
        f"network.input_size=[{','.join(map(str, sides))}]",
        f"network.in_channels={C}",
        f"network.num_classes={CLASSES}",
        f"runs={runs}",
        "max_steps=2",
        *overrides,
    )


def test_pictures_in_color_are_judged_without_a_file_from_outside(tmp_path):
    path = made(tmp_path / "set", (3, 32, 32))
    answer = trained(path, tmp_path, "evaluation=pictures", "evaluation.num_samples=20", "report=true")
    assert answer.code == 0, answer.said
    found = results(only(tmp_path / "smoke"))
    assert found["metric"] == "fd_lite0"
    assert "FD (Lite0) of 20 samples to 150 training images" in answer.out
    assert "FID" not in answer.out
    assert {"value", "heldout"} == set(found["floor"])
    assert {"precision", "recall", "memorized"} <= set(found)


def test_rectangles_are_judged_by_a_classifier_of_their_own(tmp_path):
    answer = trained(
        made(tmp_path / "set", (1, 20, 28)), tmp_path, "evaluation=classifier", "evaluation.num_samples=20"
    )
    assert answer.code == 0, answer.said
    found = results(only(tmp_path / "smoke"))
    assert found["metric"] == "frechet_distance"
    assert {"accuracy", "memorized"} <= set(found)


@pytest.mark.parametrize("features", ["lite0", "classifier"])
def test_the_judge_prefers_real_pictures_and_knows_repeated_ones(tmp_path, features):
    data = folder(str(made(tmp_path / "set", (1, 20, 28))))
    judge = own_pictures(data, tmp_path / "cache", features).judge
    real = judge.score(data.heldout_x, data.heldout_y)
    noisy = judge.score(data.heldout_x + torch.randn_like(data.heldout_x), data.heldout_y)
    repeated = judge.score(data.train_x[:60], data.train_y[:60])
    assert repeated["value"] < noisy["value"]
    assert real["value"] == pytest.approx(judge.floor(60)["heldout"], rel=1e-4)
    assert real["value"] < noisy["value"]
    assert repeated["memorized"] == 1
    assert real["memorized"] < 0.2


def test_features_of_the_set_are_looked_at_once_and_a_damaged_file_is_made_anew(tmp_path, monkeypatch):
    data, cache = folder(str(made(tmp_path / "set", (1, 8, 8)))), tmp_path / "cache"
    first = own_pictures(data, cache).judge
    kept = sorted(cache.glob("features_*.npz"))
    assert len(kept) == 2
    with monkeypatch.context() as context:
        context.setattr("decm.protocols.pictures.build_reference", None)  # to call it would fail
        again = own_pictures(data, cache).judge
    assert torch.equal(first.known, again.known)
    kept[0].write_bytes(kept[0].read_bytes()[:100])
    assert torch.equal(own_pictures(data, cache).judge.known, first.known)


def test_samples_are_held_against_the_held_out_pictures_too_where_there_are_enough(tmp_path):
    data = folder(str(made(tmp_path / "set", (1, 8, 8), heldout=90)))
    plain = own_pictures(data, tmp_path / "cache", "classifier").judge
    features = plain.extractor(plain.heldout)["pool"]
    judge = ImageJudge(
        plain.extractor, plain.to_pixels, data.train_x, data.heldout_x, data.heldout_y, known_heldout=features
    )
    assert judge.score(data.heldout_x, data.heldout_y)["fd_heldout"] == pytest.approx(0, abs=1e-3)
    assert judge.score(data.train_x, data.train_y)["fd_heldout"] > 0.01
    assert "fd_heldout" not in plain.score(data.train_x, data.train_y)


def test_the_reference_is_a_random_part_of_a_large_set(tmp_path):
    data = folder(str(made(tmp_path / "set", (1, 8, 8))))
    judge = own_pictures(data, tmp_path / "cache", num_reference=40).judge
    whole = own_pictures(data, tmp_path / "cache").judge
    rows = [int((whole.known - row).abs().sum(1).argmin()) for row in judge.known]
    assert len(set(rows)) == 40
    assert rows != list(range(40))


def test_a_classifier_beside_the_features_gives_the_accuracy_alone(tmp_path):
    data = folder(str(made(tmp_path / "set", (1, 8, 8))))
    plain, both = (own_pictures(data, tmp_path / "cache", accuracy=accuracy).judge for accuracy in (False, True))
    found, known = (judge.score(data.heldout_x, data.heldout_y) for judge in (plain, both))
    assert known.pop("accuracy") == both.floor(20)["heldout_accuracy"] > 0.9
    assert found == known
    assert both.score(data.heldout_x, (data.heldout_y + 1) % CLASSES)["accuracy"] < 0.1


def test_without_a_judge_there_are_pictures_alone(tmp_path):
    path = made(tmp_path / "set", (1, 20, 28))
    answer = trained(path, tmp_path, "evaluation=none", "report=true", "evaluation.every=1")
    assert answer.code == 0, answer.said
    run = only(tmp_path / "smoke")
    assert "Nothing was judged" in (run / "table.md").read_text()
    assert {"comparison.png", "report.html", "samples_nfe1.png"} <= {file.name for file in run.iterdir()}
    assert decm("runs", f"runs={tmp_path}").code == 0
    assert trained(path, tmp_path, "evaluation=none", "seed=1", "name=other").code == 0
    assert decm("report", f"runs=[{run},{only(tmp_path / 'other')}]", f"out={tmp_path / 'both.html'}").code == 0
    asked = decm("evaluate", f"checkpoint={run}", "nfe=[1]")
    assert asked.code == 2
    assert "set features=lite0 or classifier" in asked.err
    judged = decm("evaluate", f"checkpoint={run}", "nfe=[1]", "features=classifier", "num_samples=20")
    assert judged.code == 0, judged.said
    exported = decm("export", f"run={run}", f"out={tmp_path / 'mine'}")
    assert exported.code == 0, exported.said


def test_a_sweep_without_a_judge_is_refused_before_its_folder_is_made(tmp_path):
    for values in ("evaluation=none", "evaluation=digits,none"):
        answer = decm("train", "-m", *TINY, values, "seed=0,1", f"runs={tmp_path}")
        assert answer.code == 2
        assert "evaluation=none gives none" in answer.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("evaluation", "said"),
    [
        ("evaluation=pictures evaluation.protocol.features=vgg", "features=vgg; expected lite0 or classifier"),
        ("evaluation=pictures evaluation.protocol.num_reference=1", "num_reference=1"),
        ("experiment=decm_2d evaluation=pictures", "judges gray or RGB pictures"),
    ],
)
def test_a_judge_that_does_not_fit_is_refused(tmp_path, evaluation, said):
    answer = decm("train", "experiment=smoke", "logger=csv", *evaluation.split(), f"runs={tmp_path / 'runs'}")
    assert answer.code == 2
    assert said in answer.err
    assert not list(tmp_path.iterdir())
