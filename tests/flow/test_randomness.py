"""Random numbers as a function of (seed, purpose, index)."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decm.flow.randomness import normal, permutation, uniform
from helpers import largest

INDEX = torch.arange(20_000)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_rows_do_not_depend_on_batching_or_order(indices, random):
    whole = dict(zip(indices, normal(3, "noise", torch.tensor(indices), (2, 2)), strict=True))
    shuffled = random.sample(indices, len(indices))
    cut = random.randint(0, len(indices))
    for part in (shuffled[:cut], shuffled[cut:]):
        rows = normal(3, "noise", torch.tensor(part, dtype=torch.long), (2, 2))
        assert all(torch.equal(row, whole[i]) for row, i in zip(rows, part, strict=True))


def test_uniform_rows_do_not_depend_on_batching_or_order():
    whole = uniform(3, "times", INDEX[:64])
    assert torch.equal(torch.cat([uniform(3, "times", INDEX[32:64]), uniform(3, "times", INDEX[:32])]), whole.roll(32))


def test_seed_purpose_and_index_each_change_the_numbers():
    index = torch.arange(8)
    base = normal(0, "noise", index, (4,))
    for other in (
        normal(1, "noise", index, (4,)),
        normal(0, "times", index, (4,)),
        normal(0, "noise", index + 8, (4,)),
    ):
        assert not torch.isclose(base, other).any()
    assert torch.equal(normal(0, "noise", index, (4,)), base)


def test_neighboring_streams_do_not_overlap():
    """The numbers of index i do not reappear, shifted, in index i + 1, however many are drawn."""
    rows = normal(0, "noise", torch.arange(4), (4096,))
    assert rows.flatten().unique().numel() > 0.99 * rows.numel()


def test_normal_is_standard_and_neighbors_are_uncorrelated():
    x = normal(0, "noise", INDEX, (2,)).double()
    n = len(INDEX)
    assert largest(x.mean(0)) < 4 / n**0.5
    assert largest(x.std(0) - 1) < 4 / (2 * n) ** 0.5
    within, between = (x[:, 0] * x[:, 1]).mean(), (x[:-1] * x[1:]).mean(0)
    assert max(largest(within), largest(between)) < 4 / n**0.5
    assert abs(float(x.pow(4).mean()) - 3) < 0.2
    across = normal(0, "renoise", INDEX[:5000], (2,)).double(), normal(1, "noise", INDEX[:5000], (2,)).double()
    assert all(largest((x[:5000] * other).mean()) < 4 / 10_000**0.5 for other in across)


def test_uniform_is_in_the_unit_interval_and_even():
    u = uniform(0, "times", INDEX).double()
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    assert largest((u * 10).long().bincount(minlength=10) / len(u) - 0.1) < 0.01  # standard error 0.002


def test_permutation_is_a_permutation_of_its_own_epoch():
    first = permutation(0, "order", 0, 100)
    assert first.sort().values.tolist() == list(range(100))
    assert first.tolist() != list(range(100))
    assert torch.equal(permutation(0, "order", 0, 100), first)
    assert not torch.equal(permutation(0, "order", 1, 100), first)


def test_no_rows_are_an_empty_batch():
    empty = torch.empty(0, dtype=torch.long)
    assert normal(0, "noise", empty, (3, 2)).shape == (0, 3, 2)
    assert uniform(0, "times", empty).shape == (0,)
    assert {normal(0, "n", empty, (1,)).dtype, uniform(0, "t", empty).dtype} == {torch.float32}
