"""KID, the Inception Score, precision and recall against independent implementations on the same features."""

import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import calculate_precision_recall_full, calculate_precision_recall_part
from torchmetrics.image.inception import InceptionScore as TheirInceptionScore
from torchmetrics.image.kid import poly_mmd

from decm.evaluation.scores import (
    FeatureSubset,
    InceptionScore,
    Memorization,
    Neighborhoods,
    kernel_distance,
    nearest_distance,
    precision_recall,
)
from helpers import random_states


def test_kid_equals_torch_fidelitys_with_its_seed():
    a, b = random_states(300, (16,)), random_states(250, (16,), 1) * 1.2
    theirs = kid_features_to_metric(a, b, kid_subsets=20, kid_subset_size=100, verbose=False)
    mean, deviation = kernel_distance(a, b, subsets=20, size=100)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert deviation == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-9)


def test_kid_of_the_whole_sets_equals_torchmetrics():
    a, b = random_states(120, (16,)), random_states(120, (16,), 1) + 0.5
    mean, deviation = kernel_distance(a, b, subsets=3)
    assert mean == pytest.approx(float(poly_mmd(b, a)), rel=1e-9)
    assert deviation == pytest.approx(0, abs=1e-12)  # every subset is the whole set


def test_kid_is_unbiased_and_grows_with_the_distance():
    a, b = random_states(2000, (8,)), random_states(2000, (8,), 1)
    near, spread = kernel_distance(a, b, subsets=50, size=200)
    assert abs(near) < 3 * spread / 50**0.5 + 0.01
    assert kernel_distance(a, b + 1, subsets=10, size=200)[0] > 10 * abs(near)


def inception_score(logits: torch.Tensor, splits: int = 10, parts: int = 7) -> float:
    metric = InceptionScore(logits.shape[1], len(logits), splits)
    for index in torch.randperm(len(logits), generator=torch.Generator().manual_seed(0)).chunk(parts):
        metric.update(logits[index], index)
    return float(metric.compute().mean())


@pytest.mark.parametrize("num", [200, 203])
def test_the_inception_score_equals_torch_fidelitys_in_any_order(num):
    logits = 3 * random_states(num, (12,))
    theirs = isc_features_to_metric(logits, splits=10, shuffle=False)["inception_score_mean"]
    assert inception_score(logits) == pytest.approx(theirs, rel=1e-10)
    shuffled = isc_features_to_metric(logits.flip(0), splits=10, shuffle=False)["inception_score_mean"]
    assert (theirs == pytest.approx(shuffled, rel=1e-6)) is (num == 200)  # parts of 203 differ when reversed


def test_the_inception_score_of_one_part_equals_torchmetrics():
    logits = 3 * random_states(150, (12,))
    metric = TheirInceptionScore(feature=torch.nn.Identity(), splits=1)
    metric.features.append(logits)
    with pytest.warns(UserWarning, match="compute"):
        theirs = float(metric.compute()[0])
    assert inception_score(logits, splits=1) == pytest.approx(theirs, rel=1e-9)


def test_the_inception_score_lies_between_one_and_the_number_of_classes():
    sure = 200 * torch.eye(10).double().repeat(30, 1)
    assert inception_score(sure) == pytest.approx(10, rel=1e-6)
    assert inception_score(sure[:1].repeat(300, 1)) == pytest.approx(1, rel=1e-6)
    assert inception_score(torch.zeros(300, 10).double()) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_precision_and_recall_equal_torch_fidelitys(spread):
    samples, reference = spread * random_states(180, (6,)), random_states(230, (6,), 1)
    ours = precision_recall(samples, Neighborhoods(reference))
    assert ours == pytest.approx(calculate_precision_recall_full(samples, reference), abs=1e-6)  # float32 means
    assert ours == pytest.approx(calculate_precision_recall_part(samples, reference, batch_size=50), abs=1e-6)
    assert 0 < min(ours) < 1


def test_narrow_samples_are_precise_and_wide_ones_cover():
    reference = random_states(300, (4,))
    precise, poor_recall = precision_recall(0.1 * random_states(300, (4,), 1), Neighborhoods(reference))
    poor_precision, covering = precision_recall(3 * random_states(300, (4,), 2), Neighborhoods(reference))
    assert precise > 0.95 > poor_recall
    assert covering > 0.9 > poor_precision


def test_precision_and_recall_of_a_case_by_hand():
    """On a line: reference 0, 1, 2, 3 with k = 1 (radius 1 each); samples 0.5, 10, 11 (radii 9.5, 1, 1)."""
    reference, samples = torch.tensor([[0.0], [1], [2], [3]]), torch.tensor([[0.5], [10.0], [11]])
    precision, recall = precision_recall(samples, Neighborhoods(reference, k=1))
    assert precision == pytest.approx(1 / 3)
    assert recall == 1  # the ball of 0.5 reaches to 10
    precision, recall = precision_recall(samples[1:], Neighborhoods(reference, k=1))
    assert (precision, recall) == (0, 0)


@pytest.mark.parametrize("noise", [0, 1e-7])
def test_a_repeated_sample_is_precise_and_covers_its_own_point_alone(noise):
    """Also where the features of one picture differ by float32 rounding from batch to batch."""
    reference = 3 + random_states(230, (64,)).float()
    for row in range(8):
        repeated = reference[row].expand(90, 64) * (1 + noise * random_states(90, (64,), row).float())
        assert precision_recall(repeated, Neighborhoods(reference)) == (1, 1 / 230)
        assert precision_recall(repeated + 30, Neighborhoods(reference)) == (0, 0)
        assert precision_recall(repeated, Neighborhoods(reference[row].expand(50, 64))) == (1, 1)


def test_the_nearest_distances_are_in_order_and_their_lack_an_error():
    a, b = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 1.0], [0.0, 3.0], [3.0, 4.0]])
    assert nearest_distance(a, b).tolist() == [1, 0]
    assert nearest_distance(a, b, 2)[0] == 3
    with pytest.raises(ValueError, match="4-th nearest of 3"):
        nearest_distance(a, b, 4)
    with pytest.raises(ValueError, match="more samples"):
        Neighborhoods(b)
    with pytest.raises(ValueError, match="more samples"):
        precision_recall(a[:1], Neighborhoods(b, k=1))


def test_repeated_training_images_count_as_memorized_and_new_ones_rarely():
    train, heldout = random_states(200, (1, 3, 3)), random_states(200, (1, 3, 3), 1)
    judged = Memorization(train, heldout)
    assert judged.share(train[:50]) == 1
    assert judged.share(random_states(2000, (1, 3, 3), 2)) == pytest.approx(0.05, abs=0.05)
    assert judged.share(train[:50] + 5) == 0


def test_the_kept_rows_are_the_same_for_any_batches_and_order():
    rows, index = torch.arange(500.0)[:, None], torch.arange(500)

    def kept(parts) -> torch.Tensor:
        metric = FeatureSubset(1, 60)
        for part in parts:
            metric.update(rows[part], index[part])
        return metric.compute().flatten()

    whole = kept([index])
    assert len(whole) == 60
    assert torch.equal(whole, whole.sort().values)
    assert torch.equal(kept(index.split(13)), whole)
    assert torch.equal(kept(index.flip(0).split(31)), whole)
    assert abs(float(whole.mean()) - 250) < 60  # a random part, not the first


def test_all_rows_are_kept_in_order_where_they_fit():
    metric = FeatureSubset(1, 10)
    metric.update(torch.tensor([[3.0], [1.0]]), torch.tensor([3, 1]))
    metric.update(torch.tensor([[2.0]]), torch.tensor([2]))
    assert metric.compute().flatten().tolist() == [1, 2, 3]
