"""Channels come first, and labels are whole numbers: what is taken for them and what is not."""

import numpy as np
import pytest
import torch

from decm.data.raw import channel_statistics, check_layout, integer_labels


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (3, 32, 32), (2, 1, 1), (16, 1, 1), (4, 4, 4), (3, 3, 3), (1, 4, 3), (1, 1, 3)]
)
def test_channels_first_is_not_taken_for_channels_last(shape):
    check_layout((5, *shape), "x", (1, 3, 4))


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (28, 20, 3), (8, 6, 1), (2, 2, 1), (16, 16, 4)])
def test_channels_last_is_refused(shape):
    with pytest.raises(ValueError, match=r"looks like \[N, H, W, C\]"):
        check_layout((5, *shape), "x", (1, 3, 4))


def test_labels_without_a_number_of_classes_need_only_be_whole_and_not_negative():
    assert integer_labels(np.array([7.0, 1000.0]), "labels").tolist() == [7, 1000]
    with pytest.raises(ValueError, match="label 1 is -2; expected whole numbers, 0 to "):
        integer_labels(np.array([7, -2]), "labels")


def test_a_constant_channel_keeps_its_scale():
    x = torch.cat([torch.full((4, 1, 2, 2), 0.25), torch.rand(4, 1, 2, 2)], 1)
    mean, std = channel_statistics(x)
    assert float(mean[0]) == 0.25
    assert float(std[0]) == 1
    assert float(std[1]) == pytest.approx(float(x[:, 1].std()), rel=1e-5)
