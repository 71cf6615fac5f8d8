"""EfficientNet-Lite0 from its package: the published network, and features of pictures of any size."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image
from torch import nn

from decm.features import lite0
from decm.features.build import build_extractor
from decm.features.lite0 import SIDE, Lite0Features


@pytest.fixture(scope="module")
def extractor():
    return Lite0Features()


def square(name):
    """A photograph of scikit-learn's, cropped to its middle, 224 x 224, float pixels [1, 3, 224, 224]."""
    picture = torch.from_numpy(np.array(load_sample_image(name))).permute(2, 0, 1)[None].float()
    H, W = picture.shape[-2:]
    top, left = (H - min(H, W)) // 2, (W - min(H, W)) // 2
    cropped = picture[..., top : top + min(H, W), left : left + min(H, W)]
    return nn.functional.interpolate(cropped, size=(224, 224), mode="bicubic", antialias=True).clamp(0, 255)


@pytest.mark.parametrize(("name", "label"), [("flower.jpg", 985), ("china.jpg", 698)], ids=["daisy", "palace"])
def test_it_is_the_network_that_was_trained_on_imagenet(extractor, name, label):
    with torch.no_grad():
        assert int(extractor.network((square(name) - 127) / 128).argmax()) == label


def test_features_are_of_pictures_of_any_size_and_gray_ones_are_repeated(extractor):
    for shape in ((3, 32, 32), (1, 20, 28), (1, 8, 8)):
        assert extractor(torch.randint(0, 256, (2, *shape), dtype=torch.uint8))["pool"].shape == (2, 1280)
    gray = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    assert torch.equal(extractor(gray)["pool"], extractor(gray.expand(-1, 3, -1, -1))["pool"])


def test_a_picture_has_the_same_features_in_any_batch(extractor):
    pictures = torch.randint(0, 256, (70, 1, 12, 12), dtype=torch.uint8)
    alone = extractor(pictures[66:67])["pool"]
    torch.testing.assert_close(extractor(pictures)["pool"][66:67], alone, rtol=1e-4, atol=1e-5)


def test_a_picture_of_its_own_size_is_not_resized(extractor):
    picture = torch.randint(0, 256, (1, 3, SIDE, SIDE), dtype=torch.uint8)
    with torch.no_grad():
        found = extractor.network.forward_features((picture.float() - 127) / 128)
        assert torch.equal(extractor(picture)["pool"], extractor.network.forward_head(found, pre_logits=True))


def test_what_is_not_its_file_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not hold the 296 tensors"):
        build_extractor("lite0", tmp_path / "other.pth")


def test_without_its_package_it_says_which(monkeypatch):
    monkeypatch.setattr(lite0, "PACKAGE", "no-such-package-anywhere")
    with pytest.raises(ValueError, match="pip install no-such-package-anywhere"):
        Lite0Features()
