"""Reference statistics: what is written is read, and every unusable file has an error of its own."""

import numpy as np
import pytest
import torch

from decm.evaluation.frechet import fit
from decm.evaluation.statistics import Reference, build_reference, read_reference, write_reference
from decm.evaluation.suite import MetricSuite
from helpers import random_states
from ranks import PixelFeatures, images, reference


def built(num: int = 60, keep: int = 40, batch: int = 7) -> Reference:
    return build_reference(images(num, 1).split(batch), PixelFeatures(), "random pixels", "1.0", keep)


def test_what_is_written_is_read(tmp_path):
    made = built()
    write_reference(tmp_path / "deep" / "a.npz", made)
    found = read_reference(tmp_path / "deep" / "a.npz")
    assert found.moments.keys() == {"pool", "spatial"}
    for name, pair in made.moments.items():
        assert all(torch.equal(a, b) for a, b in zip(pair, found.moments[name], strict=True))
    assert torch.equal(found.features, made.features)
    assert found.provenance == made.provenance
    assert {"what", "count", "features", "resize", "code_version"} <= found.provenance.keys()
    assert "random pixels (60 images)" in found.describe()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.npz"]


def test_the_statistics_are_those_of_the_features_in_any_batches():
    whole, parts = built(batch=60), built(batch=7)
    found = PixelFeatures()(images(60, 1))
    for name in ("pool", "spatial"):
        for ours, truth, other in zip(whole.moments[name], fit(found[name]), parts.moments[name], strict=True):
            assert torch.allclose(ours, truth, atol=1e-12)
            assert torch.allclose(ours, other, atol=1e-12)
    assert len(whole.features) == 40
    assert torch.equal(whole.features, parts.features)
    assert not whole.complete
    assert built(keep=60).complete
    assert built(keep=0).features is None


def adm_file(path, extractor=None, num: int = 50) -> torch.Tensor:
    """A file as ADM writes it: arr_0 [N, H, W, 3] uint8, mu, sigma, mu_s, sigma_s, and nothing else."""
    x = images(num, 4)
    found = (extractor or PixelFeatures())(x)
    stats = {"arr_0": x.permute(0, 2, 3, 1).numpy()}
    for name, end in (("pool", ""), ("spatial", "_s")):
        stats |= {f"mu{end}": found[name].numpy().mean(0), f"sigma{end}": np.cov(found[name].numpy(), rowvar=False)}
    np.savez(path, **stats)
    return x


def test_adms_files_are_read_and_their_images_serve_for_kid_precision_and_recall(tmp_path):
    x = adm_file(tmp_path / "VIRTUAL_made.npz")
    suite = MetricSuite(PixelFeatures(), read_reference(tmp_path / "VIRTUAL_made.npz"), len(x))
    suite.update(x, torch.zeros(len(x)))
    scores = suite.compute()
    assert abs(scores["fd"]) < 1e-6
    assert abs(scores["sfid"]) < 1e-6
    assert scores["precision"] == scores["recall"] == 1
    assert scores["kid"] < 1e-3
    assert read_reference(tmp_path / "VIRTUAL_made.npz").describe() == "VIRTUAL_made.npz"


def test_a_missing_file_says_how_to_build_one(tmp_path):
    with pytest.raises(ValueError, match="decm reference images="):
        read_reference(tmp_path / "absent.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_0": np.zeros(3)}, "holds arr_0; expected at least mu and sigma"),
        ({"mu": np.zeros(3)}, "expected at least mu and sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, r"mu is \(3,\) and sigma \(4, 4\)"),
        ({"mu": np.zeros((3, 1)), "sigma": np.eye(3)}, r"expected \(D,\) and \(D, D\)"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "NaN"),
        ({"mu": np.zeros(3), "sigma": np.eye(3), "mu_s": np.zeros(2), "sigma_s": np.eye(3)}, "mu_s"),
    ],
)
def test_a_file_without_usable_statistics_says_what_it_holds(arrays, message, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        read_reference(tmp_path / "a.npz")


def test_pickled_objects_are_never_read(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.array([{"a": 1}], dtype=object), sigma=np.eye(3))
    with pytest.raises(ValueError, match="pickled"):
        read_reference(tmp_path / "a.npz")


def test_damaged_and_foreign_files_are_refused_by_name(tmp_path):
    write_reference(tmp_path / "good.npz", built())
    whole = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("not an array")
    np.save(tmp_path / "bare.npy", np.zeros(3))
    for name in ("cut.npz", "text.npz", "bare.npy"):
        with pytest.raises(ValueError, match=name):
            read_reference(tmp_path / name)


def test_statistics_that_are_no_covariance_are_refused_by_name_and_those_of_one_picture_are_read(tmp_path):
    mean, sound = np.full(12, 5.0), np.diag(np.linspace(1, 2, 12))
    rounding = 1e-13 * random_states(12, (12,)).numpy()
    one_sided = sound + 0.1 * np.eye(12, k=3)
    for name, sigma, good in (
        ("sound", sound, True),
        ("constant", 0 * sound, True),
        ("rounding", rounding + rounding.T, True),
        ("negative", sound - 1.5 * np.eye(12), False),
        ("one_sided", one_sided, False),
    ):
        np.savez(tmp_path / f"{name}.npz", mu=mean, sigma=sigma)
        if good:
            assert read_reference(tmp_path / f"{name}.npz").moments["pool"][1].shape == (12, 12)
            continue
        with pytest.raises(ValueError, match=rf"{name}.npz is damaged: sigma"):
            read_reference(tmp_path / f"{name}.npz")


def test_a_reference_of_other_features_is_refused():
    made = reference()
    made.provenance["features"] = "inception"
    with pytest.raises(ValueError, match="made with features=inception"):
        MetricSuite(PixelFeatures(), made, 10)
    made.provenance.clear()
    wrong = Reference({"pool": (torch.zeros(5), torch.eye(5))})
    with pytest.raises(ValueError, match="mu has 5 dimensions; features=pixels has 12"):
        MetricSuite(PixelFeatures(), wrong, 10)


def test_a_single_image_makes_no_reference():
    with pytest.raises(ValueError, match="expected two or more"):
        build_reference([images(1, 0)], PixelFeatures(), "one", "1.0")
