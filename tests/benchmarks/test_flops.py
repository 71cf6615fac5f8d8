"""The counter of operations against a count by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from decm.networks import tangent_rules
from decm.networks.layers import Block
from helpers import random_states, randomize_parameters

B, N, HEADS, WIDTH = 2, 16, 3, 48
PRODUCT = 2 * B * N * N * WIDTH  # operations of q k^T, or of P v, over all heads


def operations(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def states(*shape, seed):
    return random_states(B, shape, seed, torch.float32)


@pytest.fixture
def block():
    return randomize_parameters(Block(WIDTH, HEADS, 4.0, qk_norm=True))


@pytest.fixture
def inputs():
    x, dx, c, dc = (states(*shape, seed=k) for k, shape in enumerate([(N, WIDTH), (N, WIDTH), (WIDTH,), (WIDTH,)]))
    rope = torch.cat([torch.ones(N, WIDTH // HEADS), torch.zeros(N, WIDTH // HEADS)], dim=-1)
    return x.requires_grad_(), c.requires_grad_(), rope, (dx, dc)


def linear_layers(block):
    """Operations of one pass through all linear layers: per token, and adaLN once for each sample."""
    rows = {name: B if "adaln" in name else B * N for name, _ in block.named_modules()}
    return sum(2 * rows[n] * m.weight.numel() for n, m in block.named_modules() if isinstance(m, torch.nn.Linear))


def test_linear_layers_are_12_width_squared_a_token_and_6_a_sample(block):
    assert linear_layers(block) == 2 * (12 * B * N + 6 * B) * WIDTH**2


def test_a_plain_block_is_one_pass_of_its_layers_and_two_products_of_attention(block, inputs):
    x, c, rope, _ = inputs
    assert operations(lambda: block(x, c, rope)) == linear_layers(block) + 2 * PRODUCT


def products_of_attention(grad):
    """Products that attention and its tangent take, with the value's gradient needed or not."""
    parts = [states(HEADS, N, WIDTH // HEADS, seed=k).requires_grad_(grad) for k in range(6)]
    return operations(lambda: tangent_rules.attention(parts[:2], parts[2:4], parts[4:])) / PRODUCT


def test_attention_takes_two_products_and_its_tangent_five_or_both_together_six():
    """q k^T and P v; q k^T, dq k^T, q dk^T, H v and P dv; without a gradient, one operator makes each once."""
    assert products_of_attention(True) == 2 + 5
    assert products_of_attention(False) == 6


def test_a_dual_block_is_two_passes_of_its_layers_and_the_backward_pass_two_more(block, inputs):
    x, c, rope, tangents = inputs
    forward = operations(lambda: block(x, c, rope, tangents))
    assert forward == 2 * linear_layers(block) + 7 * PRODUCT
    both = operations(lambda: block(x, c, rope, tangents)[0].sum().backward())
    assert both == 4 * linear_layers(block) + (7 + 5) * PRODUCT  # fused attention makes q k^T again


def test_a_weight_tangent_would_be_seen(block, inputs):
    """The negative control: torch.func.jvp spends a third product on each linear layer."""
    x, c, rope, (dx, dc) = inputs
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        joint = operations(lambda: torch.func.jvp(lambda x, c: block(x, c, rope), (x, c), (dx, dc)))
    assert joint > 2 * linear_layers(block) + 7 * PRODUCT
