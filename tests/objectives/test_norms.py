"""Norms and distances over a sample."""

import pytest
import torch

from decm.objectives.norms import cosine, mean_square, root_mean_square
from helpers import largest, random_states

SHAPE = (3, 4, 4)


def test_norms_are_means_over_a_sample_and_do_not_mix_samples():
    x = torch.stack([torch.full(SHAPE, 3.0), torch.full(SHAPE, -4.0)])
    assert mean_square(x).tolist() == [9, 16]
    assert root_mean_square(x).tolist() == [3, 4]


def test_cosine_is_over_channels_at_each_position_then_averaged():
    a, b = random_states(2, (3, 2, 2)), random_states(2, (3, 2, 2), seed=5)
    by_hand = [
        sum(
            float(a[n, :, i, j] @ b[n, :, i, j] / a[n, :, i, j].norm() / b[n, :, i, j].norm())
            for i in range(2)
            for j in range(2)
        )
        / 4
        for n in range(2)
    ]
    assert cosine(a, b).tolist() == pytest.approx(by_hand, abs=1e-12)
    whole = torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1))
    assert largest(cosine(a, b) - whole) > 1e-3, "it is not the cosine over the whole sample"


def test_cosine_at_a_single_position_is_over_the_whole_sample():
    a, b = random_states(5, (2, 1, 1)), random_states(5, (2, 1, 1), seed=5)
    assert largest(cosine(a, b) - torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1))) < 1e-15
