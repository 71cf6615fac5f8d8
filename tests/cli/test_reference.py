"""`decm reference` builds statistics from folders and data sets, and every mistake is a sentence of its own."""

import numpy as np
import pytest
import torch
from hydra.errors import HydraException
from PIL import Image

import commands
from decm.cli.reference import task
from decm.data.arrays import digits
from decm.data.manifest import to_pixels
from decm.evaluation.frechet import fit
from decm.evaluation.statistics import read_reference, weights_of
from decm.evaluation.suite import SuiteJudge
from decm.features.build import EXTRACTORS
from decm.features.classifier import Classifier, ClassifierFeatures
from decm.networks.autoencoder import Autoencoder
from decm.protocols.images import image_statistics
from decm.report.table import notes
from decm.settings.composition import compose
from latent_sets import Numbered, numbered_set
from ranks import PixelFeatures

SMALL = {"channels": 32, "multipliers": [1, 2], "latent_channels": 2, "attention": True}


@pytest.fixture
def weights(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(Classifier().state_dict(), tmp_path / "digits.safetensors")
    return tmp_path / "digits.safetensors"


def build(out, *overrides: str) -> None:
    task(compose("reference", [f"out={out}", *overrides]))


def of_digits(out, weights, *overrides: str) -> None:
    build(out, "data=digits", "features=classifier", f"weights={weights}", *overrides)


def test_the_statistics_of_digits_are_those_of_their_features(tmp_path, weights):
    of_digits(tmp_path / "a.npz", weights, "keep=100")
    found, data = read_reference(tmp_path / "a.npz"), digits()
    pool = ClassifierFeatures.read(weights)(to_pixels(data.train_x, data.manifest))["pool"]
    for ours, truth in zip(found.moments["pool"], fit(pool), strict=True):
        assert torch.allclose(ours, truth, atol=1e-10)
    assert found.provenance["count"] == 1497
    assert found.provenance["features"] == "classifier"
    assert data.manifest.content_hash[:16] in found.provenance["what"]
    assert found.features.shape == (100, 64)


def test_the_same_command_writes_the_same_file(tmp_path, weights):
    for name in ("a.npz", "b.npz"):
        of_digits(tmp_path / name, weights, "split=heldout")
    of_digits(tmp_path / "c.npz", weights, "split=train")
    first, second, other = ((tmp_path / name).read_bytes() for name in ("a.npz", "b.npz", "c.npz"))
    assert first == second != other


@pytest.mark.slow
def test_a_folder_of_images_is_cropped_and_scored_by_random_inception(tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    for k in range(3):
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (20, 30, 3), np.uint8)).save(
            tmp_path / "pictures" / f"{k}.png"
        )
    build(tmp_path / "a.npz", f"images={tmp_path / 'pictures'}", "features=random_inception", "size=16")
    found = read_reference(tmp_path / "a.npz")
    assert found.moments["pool"][0].shape == (2048,)
    assert found.moments["spatial"][1].shape == (2023, 2023)
    assert found.provenance["meaningless"]
    assert "center crop to 16" in found.provenance["resize"]
    assert "mean nothing" in capsys.readouterr().out


@pytest.fixture
def latents(tmp_path, monkeypatch):
    """The overrides of a small set of latents with a small autoencoder, judged by an extractor without a network."""
    from safetensors.torch import save_file

    monkeypatch.setitem(EXTRACTORS, "pixels", lambda weights, key: PixelFeatures())
    torch.manual_seed(0)
    network = Autoencoder(**SMALL)
    state = {name: value.contiguous() for name, value in network.vae.state_dict().items()}
    save_file(state, tmp_path / "vae.safetensors")
    numbered_set(tmp_path / "set", num=50)
    settings = "{channels: 32, multipliers: [1, 2], latent_channels: 2, attention: true}"
    return network, [
        "data=latents",
        f"data.path={tmp_path / 'set'}",
        "data.flip=false",
        "features=pixels",
        f"autoencoder.args={settings}",
        f"autoencoder.path={tmp_path / 'vae.safetensors'}",
    ]


def test_latents_are_decoded_before_they_are_measured(tmp_path, latents):
    network, overrides = latents
    build(tmp_path / "a.npz", *overrides, "batch_size=16")
    raw = torch.from_numpy(Numbered().latents(np.arange(50)))

    def pool(x):
        return PixelFeatures()(((network.decode(x) + 1) * 127.5).round().to(torch.uint8))["pool"]

    found = read_reference(tmp_path / "a.npz")
    assert found.provenance["count"] == 50
    for ours, truth in zip(found.moments["pool"], fit(pool(raw)), strict=True):
        assert torch.allclose(ours, truth, atol=2e-3)  # normalized and back: a pixel may round the other way
    normalized = (raw - raw.mean((0, 2, 3), keepdim=True)) / raw.std((0, 2, 3), keepdim=True)
    assert not torch.allclose(found.moments["pool"][0], fit(pool(normalized))[0], atol=2e-2)


def test_latents_need_an_autoencoder_and_stored_images_none(tmp_path, latents):
    _, overrides = latents
    for changed, message in (
        (overrides[:-1], r"autoencoder\.path is not set"),
        ([*overrides, "data.flip=true"], "data.flip=false"),
        ([*overrides, "split=heldout"], "split=train"),
        (["data=digits", "features=pixels", overrides[-1]], "are no latents"),
    ):
        with pytest.raises(ValueError, match=message):
            build(tmp_path / "a.npz", *changed)


def test_mistakes_are_sentences(tmp_path, weights):
    out = tmp_path / "a.npz"
    for overrides, message in (
        ([], "Name one source"),
        (["data=digits", f"images={tmp_path}"], "Name one source"),
        (["images=absent"], "images='absent' is no folder"),
        (["data=digits", "size=8"], "size="),
        (["data=digits", "split=test"], "expected train or heldout"),
        (["data=ring8"], "no images"),
        (["data=digits"], "set weights to the file"),
        (["data=digits", "features=resnet"], "Choose one of"),
    ):
        with pytest.raises(ValueError, match=message):
            build(out, *overrides)
    assert not out.exists()
    with pytest.raises(ValueError, match=r"ends in \.npz"):
        build(tmp_path / "a.txt", "data=digits")
    with pytest.raises(HydraException):
        build(out, "feature=inception")


def test_statistics_of_other_weights_of_the_same_features_are_refused(tmp_path, weights):
    of_digits(tmp_path / "a.npz", weights)
    known, extractor = read_reference(tmp_path / "a.npz"), ClassifierFeatures.read(weights)
    known.check_fits(extractor)
    judge = SuiteJudge([(extractor, known)], to_pixels)
    assert f"classifier (weights {weights_of(extractor)[:8]}" in judge.reference
    with torch.no_grad():
        other = ClassifierFeatures.read(weights)
        other.network.head.bias[0] += 1e-3
    with pytest.raises(ValueError, match="other weights of features=classifier"):
        known.check_fits(other)
    del known.provenance["weights"]  # of a file that was made before they were noted
    known.check_fits(other)


def test_a_file_is_overwritten_only_when_asked(tmp_path, weights):
    out = tmp_path / "a.npz"
    of_digits(out, weights)
    with pytest.raises(ValueError, match="overwrite=true"):
        of_digits(out, weights)
    of_digits(out, weights, "overwrite=true", "split=heldout")
    assert read_reference(out).provenance["count"] == 300


def test_a_bench_against_the_file_judges_states(tmp_path, weights):
    of_digits(tmp_path / "a.npz", weights)
    data = digits()
    none = compose("reference", ["out=x"]).autoencoder
    protocol = image_statistics(data, tmp_path, none, str(tmp_path / "a.npz"), "classifier", str(weights))
    same = protocol.judge.score(data.train_x, data.train_y)
    assert abs(same["value"]) < 1e-6
    assert same["value"] < protocol.judge.floor(500)["value"]
    assert "digits, train" in protocol.judge.reference
    with pytest.raises(ValueError, match="the samples' are random_inception"):
        image_statistics(data, tmp_path, none, str(tmp_path / "a.npz"), "random_inception")


def test_a_table_without_a_floor_says_so():
    results = {
        "metric": "frechet_distance",
        "num_samples": 10,
        "reference": "a set",
        "seed": 0,
        "seconds": {},
        "forward_equivalents": 1.0,
    }
    assert "floor not computed" in notes({**results, "floor": {}})[0]
    assert "floor 0.500" in notes({**results, "floor": {"value": 0.5}})[0]


@pytest.mark.slow
def test_a_run_is_judged_against_a_reference_built_on_the_command_line(runs):
    (weights,) = (runs / "cache").glob("classifier_*.safetensors")
    answer = commands.decm(
        "reference",
        "data=digits",
        f"out={runs}/digits.npz",
        "features=classifier",
        f"weights={weights}",
        "keep=500",
    )
    assert answer.code == 0, answer.said
    protocol = {"reference": f"{runs}/digits.npz", "features": "classifier", "weights": weights}
    settings = [f"evaluation.protocol.{key}={value}" for key, value in protocol.items()]
    answer = commands.train(runs, "evaluation=images", *settings)
    assert answer.code == 0, answer.said
    table = (commands.only(runs / "smoke") / "table.md").read_text()
    for row in ("| student |", "| is |", "| kid |", "| precision |", "| accuracy |"):
        assert row in table
    assert "digits, train" in table
    assert "floor not computed" in table  # the features of 500 of 1,497 images
    answer = commands.train(runs, "evaluation=images", f"evaluation.protocol.reference={runs}/digits.npz")
    assert answer.code == 2
    assert "evaluation.protocol.weights" in answer.err
