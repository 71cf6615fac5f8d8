"""The digit classifier: good enough to judge, trained once, and the same from its file; and its judge."""

import pytest
import torch

from decm.data.arrays import digits
from decm.data.manifest import to_pixels
from decm.evaluation.judge import ImageJudge
from decm.features import classifier
from decm.features.build import build_extractor
from decm.features.classifier import ClassifierFeatures, accuracy, cached_classifier, guess_accuracy

DATA = digits()


def pixels(x: torch.Tensor) -> torch.Tensor:
    return to_pixels(x, DATA.manifest)


TRAIN, HELDOUT = (pixels(DATA.train_x), DATA.train_y), (pixels(DATA.heldout_x), DATA.heldout_y)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    return folder, *cached_classifier(folder, 10, TRAIN, HELDOUT)


def test_it_knows_the_digits_it_has_never_seen(trained):
    _, net, score = trained
    assert score == accuracy(net, *HELDOUT) > 0.95
    assert accuracy(net, HELDOUT[0], (HELDOUT[1] + 1) % 10) < 0.05


def test_the_cached_network_is_bitwise_the_trained_one_and_is_not_trained_again(trained, monkeypatch):
    folder, net, score = trained
    monkeypatch.setattr(classifier, "train_classifier", None)  # to call it would fail
    again, same = cached_classifier(folder, 10, TRAIN, HELDOUT)
    assert same == score
    for ours, theirs in zip(net(HELDOUT[0]), again(HELDOUT[0]), strict=True):
        assert torch.equal(ours, theirs)
    assert len(list(folder.iterdir())) == 1
    darker = (TRAIN[0] // 2, TRAIN[1])
    others = [(11, TRAIN, HELDOUT), (10, darker, HELDOUT), (10, TRAIN, (HELDOUT[0], HELDOUT[1].flip(0)))]
    for other in others:  # other data or classes, another network
        with pytest.raises(TypeError):
            cached_classifier(folder, *other)


@pytest.mark.parametrize("num", [20, 63])
def test_a_classifier_of_few_images_is_trained_too(num):
    net = classifier.train_classifier(TRAIN[0][:num], TRAIN[1][:num])
    assert accuracy(net, *HELDOUT) > 0.4 > 3 * guess_accuracy(HELDOUT[1])


def test_a_classifier_has_the_classes_it_is_told_of_and_its_file_says_how_good_it_is(tmp_path):
    train = (TRAIN[0][:300], TRAIN[1][:300] + 7 * (TRAIN[1][:300] > 4))  # labels up to 16
    net, score = cached_classifier(tmp_path, 17, train, (HELDOUT[0], HELDOUT[1] + 7 * (HELDOUT[1] > 4)))
    assert net(HELDOUT[0])[1].shape == (300, 17)
    assert score > 0.8
    (file,) = tmp_path.iterdir()
    extractor = build_extractor("classifier", file)
    assert extractor.dims["logits"] == 17
    assert extractor.note == f"right on {score:.1%} of held-out images"
    assert torch.equal(extractor(HELDOUT[0])["pool"], net(HELDOUT[0])[0])


def test_training_is_reproducible_and_leaves_torchs_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    nets = [classifier.train_classifier(TRAIN[0][:200], TRAIN[1][:200], seed, epochs=1) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    features = [net(HELDOUT[0])[0] for net in nets]
    assert torch.equal(features[0], features[1])
    assert not torch.allclose(features[0], features[2])


def test_the_judge_of_digits_prefers_real_ones_and_sees_repeated_ones(trained):
    judge = ImageJudge(ClassifierFeatures(trained[1]), pixels, DATA.train_x, DATA.heldout_x, DATA.heldout_y)
    real = judge.score(DATA.heldout_x, DATA.heldout_y)
    noisy = judge.score(DATA.heldout_x + 0.5 * torch.randn_like(DATA.heldout_x), DATA.heldout_y)
    repeated = judge.score(DATA.train_x[:300], DATA.train_y[:300])
    floor = judge.floor(300)
    assert repeated["value"] < noisy["value"]
    assert floor["value"] < noisy["value"]
    assert real["value"] == pytest.approx(floor["heldout"])
    assert real["accuracy"] == floor["heldout_accuracy"] > 0.95
    assert real["precision"] > noisy["precision"]
    assert real["memorized"] < 0.1
    assert repeated["memorized"] == 1


def test_the_judge_of_digits_scores_one_repeated_digit(trained):
    """The distance is |m_a - m_b|^2 + tr(B), whichever the digit is; the others are those of its one point."""
    judge = ImageJudge(ClassifierFeatures(trained[1]), pixels, DATA.train_x, DATA.heldout_x, DATA.heldout_y)
    mean, cov = judge.moments
    for row in range(0, 200, 40):
        found = judge.score(DATA.train_x[row : row + 1].expand(200, 1, 8, 8), DATA.train_y[row].expand(200))
        feature = trained[1](TRAIN[0][row : row + 1])[0][0].double()
        assert found["value"] == pytest.approx(float((feature - mean).square().sum() + cov.trace()), rel=1e-5)
        assert found["precision"] == found["memorized"] == 1
        assert found["recall"] == pytest.approx(1 / len(DATA.train_x))
        assert found["accuracy"] in (0, 1)


def test_scores_that_need_more_images_than_there_are_are_left_out(trained):
    judge = ImageJudge(ClassifierFeatures(trained[1]), pixels, DATA.train_x[:3], DATA.heldout_x[:1], DATA.heldout_y[:1])
    assert judge.score(DATA.train_x[:50], DATA.train_y[:50]).keys() == {"value", "accuracy", "memorized"}
    assert judge.floor(20).keys() == {"value", "heldout_accuracy", "guess_accuracy"}
    none = ImageJudge(ClassifierFeatures(trained[1]), pixels, DATA.train_x[:4], DATA.heldout_x[:0], DATA.heldout_y[:0])
    assert none.score(DATA.train_x[:50], DATA.train_y[:50]).keys() == {"value", "accuracy", "precision", "recall"}
    assert none.floor(20).keys() == {"value"}
    with pytest.raises(ValueError, match="has 1 image; a Frechet distance needs 2"):
        ImageJudge(ClassifierFeatures(trained[1]), pixels, DATA.train_x[:1], DATA.heldout_x, DATA.heldout_y)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 20, 28), (3, 5, 4)])
def test_pictures_of_any_shape_have_a_classifier_that_its_file_gives_back(tmp_path, shape):
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    pictures = torch.randint(0, 100, (200, *shape), generator=draw) + 100 * labels[:, None, None, None]
    part = (pictures.to(torch.uint8), labels)
    net, score = cached_classifier(tmp_path, 2, part, part)
    assert score > 0.9
    extractor = build_extractor("classifier", next(tmp_path.iterdir()))
    assert torch.equal(extractor(part[0])["logits"], net(part[0])[1])
    with pytest.raises(ValueError, match="the classifier expects"):
        extractor(part[0][..., :-1])
