"""Networks F(x, t, s, y): pure, row by row, and silent about s until trained."""

import pytest
import torch

from decm.networks.dit import LightningDiT
from decm.networks.layers import END_EMBEDDINGS, EndEmbedding, time_features
from decm.networks.mlp import MLP
from helpers import (
    CLASSES,
    largest,
    random_labels,
    random_states,
    random_times,
    randomize_parameters,
    small_dit,
    small_mlp,
)

MAKE = {"dit": (small_dit, (2, 8, 8)), "mlp": (small_mlp, (2, 1, 1))}
BOTH = pytest.mark.parametrize("kind", MAKE)
KINDS = pytest.mark.parametrize("end_embedding", END_EMBEDDINGS)
B = 6


def inputs(kind, dtype=torch.float32):
    t, s = random_times(B, 0, 0.5, dtype=dtype), random_times(B, 0.5, 1, seed=3, dtype=dtype)
    return random_states(B, MAKE[kind][1], dtype=dtype), t, s, random_labels(B)


def randomized(kind, *args, spare=""):
    return randomize_parameters(MAKE[kind][0](*args), spare=spare)


@BOTH
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@torch.no_grad()
def test_two_calls_are_bitwise_equal(kind, mode):
    net, at = randomized(kind).train(mode), inputs(kind)
    state = torch.get_rng_state()
    assert torch.equal(net(*at), net(*at))
    assert torch.equal(net.train()(*at), net.eval()(*at))
    assert torch.equal(torch.get_rng_state(), state), "no random number is drawn"


@BOTH
@torch.no_grad()
def test_rows_are_independent(kind):
    net, (x, t, s, y) = randomized(kind), inputs(kind)
    whole = net(x, t, s, y)
    one_by_one = torch.cat([net(x[i : i + 1], t[i : i + 1], s[i : i + 1], y[i : i + 1]) for i in range(B)])
    assert whole.shape == x.shape
    assert largest(whole - one_by_one) < 1e-6 * largest(whole)
    assert largest(whole - one_by_one.roll(1, 0)) > 1e-2


@BOTH
@pytest.mark.parametrize("part", range(4), ids=["x", "t", "s", "y"])
@torch.no_grad()
def test_every_input_matters(kind, part):
    net, at = randomized(kind), list(inputs(kind))
    before = net(*at)
    at[part] = (at[part] + 1) % CLASSES if part == 3 else at[part] + 0.1
    assert bool(((net(*at) - before).flatten(1).norm(dim=1) > 1e-4).all())


@BOTH
@KINDS
@torch.no_grad()
def test_fresh_student_ignores_the_end_whatever_its_other_parameters(kind, end_embedding):
    x, t, s, y = inputs(kind)
    fresh = randomized(kind, end_embedding, spare="s_embedder.mlp.2")
    assert largest(fresh(x, t, t, y)) > 1e-2
    assert torch.equal(fresh(x, t, s, y), fresh(x, t, t, y))
    trained = randomized(kind, end_embedding)
    assert largest(trained(x, t, s, y) - trained(x, t, t, y)) > 1e-3


@BOTH
@KINDS
@torch.no_grad()
def test_difference_alone_keeps_the_boundary_whatever_the_end_embedding_learns(kind, end_embedding):
    net, (x, t, s, y) = randomized(kind, end_embedding), inputs(kind)
    boundary, jump = net(x, t, t, y), net(x, t, s, y)
    randomize_parameters(net.s_embedder, seed=9)
    assert largest(net(x, t, s, y) - jump) > 1e-3
    if end_embedding == "difference":
        assert torch.equal(net.s_embedder(t, t), torch.zeros(B, 32))
        assert torch.equal(net(x, t, t, y), boundary)
    else:
        assert largest(net.s_embedder(t, t)) > 1e-2
        assert largest(net(x, t, t, y) - boundary) > 1e-3


@BOTH
def test_a_fresh_network_is_zero(kind):
    assert largest(MAKE[kind][0]()(*inputs(kind))) == 0


@BOTH
@torch.no_grad()
def test_teacher_of_one_time_has_no_end_embedding(kind):
    net, (x, t, s, y) = randomized(kind, "raw", False), inputs(kind)
    assert net.s_embedder is None
    assert torch.equal(net(x, t, s, y), net(x, t, t, y))


@BOTH
@torch.no_grad()
def test_null_label_is_one_more_class_and_the_last(kind):
    net, (x, t, s, y) = randomized(kind), inputs(kind)
    assert net.num_classes == CLASSES
    null = net(x, t, s, torch.full_like(y, CLASSES))
    assert bool(null.isfinite().all())
    assert largest(null - net(x, t, s, y)) > 1e-2
    with pytest.raises(IndexError):
        net(x, t, s, torch.full_like(y, CLASSES + 1))


def count(net):
    return sum(p.numel() for p in net.parameters())


def test_parameters_of_the_transformer_are_as_many_as_counted_by_hand():
    time = (256 * 32 + 32) + (32 * 32 + 32)
    attention = (32 * 96 + 96) + (32 * 32 + 32) + 2 * 8  # qkv, projection, two norms of the head dimension
    swiglu = (32 * 170 + 170) + (85 * 32 + 32)  # int(2/3 * 4 * 32) = 85 hidden, twice for the gate
    block = 2 * 32 + attention + swiglu + (32 * 192 + 192)
    final = 32 + (32 * 32 + 32) + (32 * 64 + 64)  # norm, a patch of 4 * 4 * 2 values, adaLN
    patch = 2 * 16 * 32 + 32
    assert count(small_dit()) == patch + 2 * time + 6 * 32 + 2 * block + final
    assert count(small_dit("raw", False)) == patch + time + 6 * 32 + 2 * block + final


def test_parameters_of_the_perceptron_are_as_many_as_counted_by_hand():
    time = (256 * 64 + 64) + (64 * 64 + 64)
    expected = (2 * 64 + 64) + 2 * time + 9 * 64 + 3 * (64 * 64 + 64) + (64 * 2 + 2)
    assert count(MLP(2, 64, 3, 8)) == expected == 54594


def test_xl_has_the_published_675_million_parameters():
    with torch.device("meta"):
        teacher = LightningDiT(
            16,
            1,
            in_channels=32,
            hidden_size=1152,
            depth=28,
            num_heads=16,
            mlp_ratio=4.0,
            num_classes=1000,
            qk_norm=True,
            two_times=False,
        )
    assert count(teacher) == pytest.approx(675e6, rel=2e-3)


def test_unpatchify_undoes_patches_in_the_order_h_w_p_q_c():
    image = torch.arange(2 * 2 * 8 * 8.0).reshape(2, 2, 8, 8)
    tokens = [
        torch.stack([image[:, c, 4 * h + p, 4 * w + q] for p in range(4) for q in range(4) for c in range(2)], dim=1)
        for h in range(2)
        for w in range(2)
    ]
    net = small_dit()
    assert torch.equal(net._unpatchify(torch.stack(tokens, dim=1)), image)
    assert not torch.equal(net._unpatchify(torch.stack(tokens[::-1], dim=1)), image)


def test_time_features_are_cosines_then_sines_of_falling_frequencies():
    t = torch.tensor([0.0, 0.3], dtype=torch.float64)
    features = time_features(t, scale=2.0)
    assert features.shape == (2, 256)
    assert features[0].tolist() == [1] * 128 + [0] * 128
    frequency = 10_000 ** (-torch.arange(128, dtype=torch.float64) / 128)
    assert largest(features[1, :128] - (0.6 * frequency).cos()) < 1e-14
    assert largest(features[1, 128:] - (0.6 * frequency).sin()) < 1e-14
    assert time_features(t.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("input_size", "patch", "width", "heads"), [(9, 4, 32, 4), (8, 4, 30, 4), (8, 4, 24, 4)], ids=str
)
def test_sizes_that_do_not_divide_are_refused(input_size, patch, width, heads):
    with pytest.raises(ValueError, match=f"input_size={input_size} must be a multiple of patch_size={patch}"):
        LightningDiT(
            input_size,
            patch,
            in_channels=2,
            hidden_size=width,
            depth=1,
            num_heads=heads,
            mlp_ratio=4.0,
            num_classes=CLASSES,
            qk_norm=True,
        )


@pytest.mark.parametrize("make", [small_dit, small_mlp, lambda kind: EndEmbedding(8, kind)])
def test_unknown_end_embedding_is_refused_by_name(make):
    with pytest.raises(ValueError, match=r"end_embedding='ratio' is unknown.*raw, difference"):
        make("ratio")


@BOTH
def test_times_are_embedded_in_float32_under_autocast(kind):
    """Between t = 0.5 and 0.501 bfloat16 has no digit."""
    net, (_, t, s, _) = randomized(kind), inputs(kind)
    with torch.autocast("cpu", torch.bfloat16):
        found = [net.t_embedder(t), *net.t_embedder(t, t), net.s_embedder(t, s), *net.s_embedder(t, s, (t, s))]
    assert {part.dtype for part in found} == {torch.float32}
    assert torch.equal(found[0], net.t_embedder(t))


def rectangle(size):
    return randomize_parameters(LightningDiT(size, 4, 2, 32, 2, 4, 4.0, CLASSES, qk_norm=True))


@pytest.mark.parametrize("size", [(8, 12), (12, 8)])
def test_tokens_of_a_rectangle_lie_where_they_lie_in_a_square(size):
    """Positions are (row, column): those of the rectangle are a corner of the square's."""
    square, own = LightningDiT(12, 4, 2, 32, 2, 4, 4.0, CLASSES, True), rectangle(size)
    rows, columns = (side // 4 for side in size)
    for name in ("pos_embed", "rope"):
        whole = getattr(square, name).reshape(3, 3, -1)[:rows, :columns]
        torch.testing.assert_close(getattr(own, name).reshape(rows, columns, -1), whole)


def test_the_tangent_of_a_rectangle_is_its_derivative():
    net, x = rectangle((8, 12)).double(), random_states(B, (2, 8, 12))
    t, s, y = random_times(B, 0, 0.5), random_times(B, 0.5, 1, seed=3), random_labels(B)
    dx, zero, step = random_states(B, (2, 8, 12), seed=5), torch.zeros_like(t), 1e-5
    F, dF = net(x, t, s, y, (dx, zero, zero))
    ahead, behind = net(x + step * dx, t, s, y), net(x - step * dx, t, s, y)
    assert F.shape == x.shape
    torch.testing.assert_close(dF, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", [(8,), (8, 8, 8), (8, 0), (8, 10), (8, 8.0)])
def test_another_size_is_refused(size):
    with pytest.raises(ValueError, match="input_size"):
        rectangle(size)
