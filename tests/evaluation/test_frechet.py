"""The Frechet distance against a closed form and two independent implementations, on the same features."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance, _compute_fid

from decm.evaluation.frechet import FrechetDistance, Moments, factor, fit, frechet_distance, low_rank_basis
from helpers import random_states


def features(num: int, dim: int, seed: int = 0) -> torch.Tensor:
    mixing = random_states(dim, (dim,), seed + 100) / dim**0.5
    return (random_states(num, (dim,), seed) @ mixing + seed).float()


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    metric = FrechetDistance(*fit(b))
    for part in a.split(37):
        metric.update(part)
    return float(metric.compute())


@pytest.mark.parametrize(("num_a", "num_b", "dim"), [(400, 300, 20), (300, 500, 64)])
def test_it_equals_torch_fidelitys_on_the_same_features(num_a, num_b, dim):
    a, b = features(num_a, dim), features(num_b, dim, 1)
    ours = distance(a, b)
    stats = [fid_features_to_statistics(x.double()) for x in (a, b)]
    theirs = fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert ours == pytest.approx(theirs, rel=1e-9)
    assert ours > 1


def test_it_equals_torchmetrics_on_the_same_features():
    a, b = features(300, 16), features(250, 16, 1)

    class Flat(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)

    metric = FrechetInceptionDistance(feature=Flat(), input_img_size=(1, 4, 4))
    metric.update(b.reshape(-1, 1, 4, 4), real=True)
    metric.update(a.reshape(-1, 1, 4, 4), real=False)
    assert distance(a, b) == pytest.approx(float(metric.compute()), rel=1e-5)  # theirs returns float32
    assert frechet_distance(*fit(a), *fit(b)) == pytest.approx(float(_compute_fid(*fit(a), *fit(b))), rel=1e-9)


def test_a_pair_of_commuting_gaussians_has_the_closed_form():
    """|m_a - m_b|^2 + sum (sqrt(lambda_a) - sqrt(lambda_b))^2 where both covariances share eigenvectors."""
    rotation = torch.linalg.qr(random_states(8, (8,), 3))[0]
    values_a, values_b = torch.linspace(0.1, 4, 8).double(), torch.linspace(3, 0.2, 8).double()
    mean_a, mean_b = torch.zeros(8).double(), torch.arange(8).double() / 8
    truth = (mean_a - mean_b).square().sum() + (values_a.sqrt() - values_b.sqrt()).square().sum()
    cov_a, cov_b = (rotation * values @ rotation.T for values in (values_a, values_b))
    assert frechet_distance(mean_a, cov_a, mean_b, cov_b) == pytest.approx(float(truth), rel=1e-12)
    assert frechet_distance(mean_a, cov_b, mean_b, cov_b) != pytest.approx(float(truth), rel=1e-2)


def test_a_set_is_at_no_distance_from_itself():
    a = features(500, 48)
    assert abs(distance(a, a)) < 1e-6
    assert distance(a, a + 0.1) == pytest.approx(0.48, rel=1e-5)  # 48 dimensions shifted by 0.1


@pytest.mark.parametrize("num", [2, 10, 63])
def test_fewer_samples_than_dimensions_give_the_exact_distance(num):
    """Shifting a rank-deficient set costs the shift alone; scaling it, the scaled deviations, exactly."""
    a = features(num, 64).double()
    mean, cov = fit(a)
    assert torch.linalg.matrix_rank(cov) < 64
    assert abs(frechet_distance(mean, cov, mean, cov)) < 1e-8 * float(cov.trace())
    assert frechet_distance(mean + 1, cov, mean, cov) == pytest.approx(64, rel=1e-9)
    assert frechet_distance(mean, 4 * cov, mean, cov) == pytest.approx(float(cov.trace()), rel=1e-9)


def test_a_deficient_covariance_against_one_in_other_directions_has_no_cross_term():
    a, b = torch.zeros(6, 6).double(), torch.zeros(6, 6).double()
    a[0, 0], b[1, 1] = 2, 3
    zero = torch.zeros(6).double()
    assert frechet_distance(zero, a, zero, b) == pytest.approx(5, abs=1e-12)
    assert frechet_distance(zero, 0 * a, zero, b) == pytest.approx(3, abs=1e-12)


@pytest.mark.parametrize("dim", [64, 512, pytest.param(2048, marks=pytest.mark.slow)])
def test_repeated_samples_are_at_the_distance_of_their_point_plus_the_spread_of_the_reference(dim):
    """|m_a - m_b|^2 + tr(B): what is left of the covariance of constant features must not count."""
    mean, cov = fit(features(3 * dim if dim < 512 else 40, dim))
    for seed in range(5 if dim < 2048 else 1):
        point = 5 * random_states(1, (dim,), seed + 7).float()
        metric = FrechetDistance(mean, cov)
        for part in point.expand(200, dim).split(64):
            metric.update(part)
        truth = float((point[0].double() - mean).square().sum() + cov.trace())
        assert float(metric.compute()) == pytest.approx(truth, rel=1e-12)
        assert cov.trace() > 1e-3 * truth  # so that one without the spread would be seen


@pytest.mark.parametrize("spread", [1e-7, 1e-4])
def test_two_sets_that_are_nearly_constant_have_the_distance_of_their_spreads(spread):
    """x = p + s u and p + 3 s u: (3 - 1)^2 s^2 tr(cov u); and their shift, exactly."""
    point, u = 5 * random_states(1, (32,), 4), random_states(100, (32,), 5)
    narrow, wide = point + spread * u, point + 3 * spread * u
    shift = spread**2 * 4 * float(u.mean(0).square().sum() + torch.cov(u.T).trace())
    assert distance(narrow, wide) == pytest.approx(shift, rel=1e-6)
    repeated = point.expand(100, 32)
    assert distance(repeated, repeated) < 1e-20
    assert distance(repeated + 0.5, repeated) == pytest.approx(8, rel=1e-12)  # 32 dimensions shifted by 0.5


def test_a_covariance_that_is_rounding_of_its_mean_is_none_that_is_damaged():
    rounding = 1e-13 * random_states(64, (64,), 6)
    rounding, mean = rounding + rounding.T, torch.full((64,), 5.0).double()
    assert frechet_distance(mean, rounding, mean + 1, torch.eye(64).double()) == pytest.approx(128, rel=1e-6)
    with pytest.raises(ValueError, match="damaged"):
        frechet_distance(0 * mean, rounding, mean, torch.eye(64).double())  # features at zero have no such rounding


def test_the_factor_is_one_of_the_covariance_with_its_rank():
    for num, rank in ((200, 12), (6, 5)):
        cov = fit(features(num, 12))[1]
        root = factor(cov)
        assert root.shape == (12, rank)
        assert torch.allclose(root @ root.T, cov, atol=1e-12)


@pytest.mark.slow
def test_2048_dimensions_agree_with_the_closed_form():
    """Covariances that share eigenvectors, with the spread of Inception's; time is not asserted."""
    vectors = torch.linalg.householder_product(random_states(2048, (4,), 5), torch.full((4,), 0.3).double())
    basis = torch.eye(2048).double() - 2 * vectors @ torch.linalg.pinv(vectors)  # a reflection
    values = torch.logspace(0, -5, 2048, dtype=torch.float64)
    cov_a, cov_b = basis * values @ basis.T, basis * values.flip(0) @ basis.T
    zero = torch.zeros(2048).double()
    truth = float((values.sqrt() - values.flip(0).sqrt()).square().sum())
    assert frechet_distance(zero, cov_a, zero, cov_b) == pytest.approx(truth, rel=1e-9)
    assert abs(frechet_distance(zero, cov_a, zero, cov_a)) < 1e-6


def test_batches_and_their_order_do_not_matter():
    a, b = features(300, 20), features(200, 20, 1)
    values = []
    for size, order in ((300, slice(None)), (7, slice(None)), (50, torch.arange(299, -1, -1))):
        metric = FrechetDistance(*fit(b))
        for part in a[order].split(size):
            metric.update(part)
        values.append(float(metric.compute()))
    assert max(values) - min(values) < 1e-10 * max(values)


def test_sums_keep_their_digits_far_from_zero():
    """Features at 1e4 with deviations of 1: sums around zero in float32 would lose the covariance."""
    a = features(500, 8).double() + 1e4
    metric = Moments(8)
    metric.update(a)
    mean, cov = metric.compute()
    assert torch.allclose(mean, a.mean(0), rtol=1e-14)
    assert torch.allclose(cov, torch.from_numpy(np.cov(a.numpy(), rowvar=False)), rtol=1e-9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(bad):
    a = features(10, 4)
    metric = FrechetDistance(*fit(a))
    a[3, 2] = bad
    with pytest.raises(ValueError, match="1 of 10 samples"):
        metric.update(a)
    assert metric.count == 0
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(a.mean(0).double(), torch.cov(a.T).double(), torch.zeros(4).double(), torch.eye(4).double())


def test_what_cannot_be_measured_is_an_error():
    metric = FrechetDistance(torch.zeros(4), torch.eye(4))
    with pytest.raises(ValueError, match=r"expected \[N, 4\]"):
        metric.update(torch.zeros(3, 5))
    metric.update(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="two samples or more; found 1"):
        metric.compute()
    with pytest.raises(ValueError, match="damaged"):
        factor(torch.diag(torch.tensor([1.0, -0.5]).double()))
    with pytest.raises(ValueError, match="4 dimensions against a reference of 5"):
        frechet_distance(torch.zeros(4), torch.eye(4), torch.zeros(5), torch.eye(5))


def test_a_covariance_of_few_samples_is_factored_within_its_range():
    """The same distance as by all eigenvectors, without them; with too many samples there is no such range."""
    few, many = fit(features(40, 512)), fit(features(200, 512, 3))
    basis = low_rank_basis(few[1])
    assert basis is not None
    assert basis.shape == (512, 64)
    assert factor(few[1]).shape == (512, 39)
    assert torch.dist(factor(few[1]) @ factor(few[1]).T, few[1]) < 1e-12 * few[1].norm()
    assert low_rank_basis(many[1]) is None
    values = torch.linalg.eigvals(few[1] @ many[1]).real.clamp(min=0)
    plain = (few[0] - many[0]).square().sum() + few[1].trace() + many[1].trace() - 2 * values.sqrt().sum()
    assert frechet_distance(*few, *many) == pytest.approx(float(plain), rel=1e-5)
    assert abs(frechet_distance(*few, *few)) < 1e-6
