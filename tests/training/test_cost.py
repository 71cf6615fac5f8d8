"""What a step costs: the rows that went through a network."""

import pytest
import torch

from decm.flow.velocity import GuidedVelocity
from decm.training.cost import counted
from helpers import Counting, no_labels, random_states, random_times

T = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], dtype=torch.float64)


@pytest.mark.parametrize(("settings", "rows"), [({}, 6), ({"scale": 1.75}, 12), ({"scale": 1.75, "low": 0.35}, 9)])
def test_rows_of_the_teacher_are_counted_where_guidance_acts_twice(settings, rows):
    net = Counting(lambda x, t, s, y: x * t.reshape(-1, 1, 1, 1))
    calls = counted(net)
    field = GuidedVelocity(calls, 1, **settings)
    for k in (1, 2):
        field(random_states(6, (2, 1, 1)), T, no_labels(6))
        assert calls.rows == net.rows == k * rows


def test_a_counted_network_is_not_wrapped_again():
    """As after a rollback: the new module has the field of the old one."""
    calls = counted(lambda x, t, s, y: x)
    assert counted(calls) is calls
    calls(random_states(3, (2, 1, 1)), random_times(3, 0, 1), random_times(3, 0, 1), no_labels(3))
    assert calls.rows == 3
