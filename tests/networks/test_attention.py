"""The operator of attention under a tangent on the CPU: its values, its memory, its place in graphs."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from attention_tangents import MISTAKES, NAMES, attend, by_definition, random_inputs
from decm.networks import attention, tangent_rules
from decm.networks.attention import attention_dual, attention_tangent
from decm.networks.layers import Block
from helpers import largest, random_states, randomize_parameters, relative_error

PRECISION = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
TYPES = pytest.mark.parametrize("dtype", PRECISION, ids=str)


def errors(outputs, truth):
    return [relative_error(ours.double(), theirs) for ours, theirs in zip(outputs, truth, strict=True)]


@TYPES
@pytest.mark.parametrize("D", [72, 64, 40, 16])
@pytest.mark.parametrize("N", [1, 4, 17, 130])
def test_value_and_tangent_are_those_of_the_definition(N, D, dtype):
    inputs = random_inputs(N, D, dtype)
    outputs = attention_dual(*inputs)
    assert max(errors(outputs, by_definition(*inputs))) < PRECISION[dtype]
    assert [(o.dtype, o.shape, o.is_contiguous()) for o in outputs] == [(dtype, inputs[0].shape, True)] * 2


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_forgotten_term_is_not_within_the_precision(mistake):
    inputs = random_inputs(17, 72, torch.bfloat16)
    assert errors(attention_dual(*inputs), MISTAKES[mistake](*inputs))[1] > 0.1


@TYPES
@pytest.mark.parametrize("chunk", [1, 100, 30 * 7, 30 * 30, 3 * 30 * 30, 5 * 30 * 30])
def test_chunks_of_any_size_give_the_same(monkeypatch, chunk, dtype):
    inputs = random_inputs(30, 16, dtype, heads=3, batch=2)
    monkeypatch.setattr(attention, "CPU_CHUNK", chunk)
    assert max(errors(attention_dual(*inputs), by_definition(*inputs))) < PRECISION[dtype]


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that an operator gives."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.size = max(self.size, out.numel()) if isinstance(out, torch.Tensor) else self.size
        return out


def test_no_tensor_is_larger_than_a_chunk_or_an_input():
    inputs = random_inputs(1500, 8, heads=3)
    sizes = {}
    for chunk in (2**14, 2**24):
        with LargestTensor() as mode:
            attention._in_chunks(tuple(inputs), torch.float32, chunk)
        sizes[chunk] = mode.size
    assert sizes == {2**14: inputs[0].numel(), 2**24: 3 * 1500**2}


def test_permuted_views_give_what_contiguous_inputs_give():
    inputs = random_inputs(17, 72, batch=2)
    views = [part.transpose(1, 2).contiguous().transpose(1, 2) for part in inputs]
    assert not any(view.is_contiguous() for view in views)
    assert all(map(torch.equal, attention_dual(*views), attention_dual(*inputs)))


def test_inputs_of_different_shapes_are_refused():
    *inputs, dv = random_inputs(17, 16)
    with pytest.raises(AssertionError):
        attention_dual(*inputs, dv[:, :, :1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_autocast_around_it_changes_nothing(dtype):
    inputs = random_inputs(17, 16, dtype)
    with torch.autocast("cpu", torch.bfloat16):
        inside = attention_dual(*inputs)
    assert all(map(torch.equal, inside, attention_dual(*inputs)))


def test_the_operator_keeps_pytorchs_rules_for_operators():
    torch.library.opcheck(attention_dual, tuple(random_inputs(9, 16)))
    torch.library.opcheck(attention_dual, tuple(random_inputs(9, 16, torch.bfloat16)))
    torch.library.opcheck(attention_tangent, (*random_inputs(9, 16), *random_inputs(9, 16)[:1]))


@pytest.mark.parametrize(("N", "chunk"), [(9, 2**18), (65, 65), (65, 650)])
def test_the_tangent_alone_is_that_of_both_where_the_value_is_known(monkeypatch, N, chunk):
    monkeypatch.setattr(attention, "CPU_CHUNK", chunk)
    inputs = random_inputs(N, 16)
    o, do = attention_dual(*inputs)
    assert relative_error(attention_tangent(*inputs, o), do) < 1e-6
    assert relative_error(attention_tangent(*inputs, o + 0.1), do) > 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("output", [0, 1], ids=["o", "do"])
def test_a_backward_pass_through_it_is_refused(name, output):
    inputs = dict(zip(NAMES, random_inputs(5, 16), strict=True))
    inputs[name].requires_grad_()
    with pytest.raises(RuntimeError, match=r"attention_dual.*no autograd formula"):
        attention_dual(*inputs.values())[output].sum().backward()


def counted(operator, *inputs):
    with FlopCounterMode(display=False) as counter:
        operator(*inputs)
    return counter.get_total_flops()


def test_the_flop_counter_counts_six_products_and_five_where_the_value_is_known():
    inputs = random_inputs(130, 72, heads=3, batch=2)
    q_kT = dq_kT = q_dkT = 2 * (2 * 3) * 130 * 72 * 130
    P_v = H_v = P_dv = 2 * (2 * 3) * 130 * 130 * 72
    assert counted(attention_dual, *inputs) == q_kT + dq_kT + q_dkT + P_v + H_v + P_dv
    assert counted(attention_tangent, *inputs, inputs[0]) == q_kT + dq_kT + q_dkT + H_v + P_dv


def pairs(inputs):
    return tuple(zip(inputs[:3], inputs[3:], strict=True))


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_where_an_input_needs_a_gradient_the_value_has_it_and_the_tangent_none(name):
    inputs = random_inputs(17, 16)
    part = inputs[NAMES.index(name)].requires_grad_()
    o, do = tangent_rules.attention(*pairs(inputs))
    assert max(errors((o.detach(), do), by_definition(*(part.detach() for part in inputs)))) < 1e-6
    assert not do.requires_grad
    ours = torch.autograd.grad(o.square().sum(), part)[0]
    theirs = torch.autograd.grad(attend(*inputs[:3]).square().sum(), part)[0]
    assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize("grad", [True, False])
def test_where_no_gradient_is_needed_both_come_from_the_operator(monkeypatch, grad):
    inputs = [part.requires_grad_(not grad) for part in random_inputs(17, 16)]
    monkeypatch.delattr(tangent_rules.nnf, "scaled_dot_product_attention")
    with torch.set_grad_enabled(grad):
        ours = tangent_rules.attention(*pairs(inputs))
    assert all(map(torch.equal, ours, attention_dual(*inputs)))
    assert not any(part.requires_grad for part in ours)


def block_and_inputs():
    block = randomize_parameters(Block(32, 2, 4.0, True))
    x, dx = (random_states(2, (9, 32), seed, torch.float32) for seed in (1, 2))
    c, dc = (random_states(2, (32,), seed, torch.float32) for seed in (3, 4))
    return block, (x, c, random_states(9, (32,), 5, torch.float32), dx, dc)


def value_tangent_gradient(function: nn.Module, inputs):
    y, dy = function(*inputs)
    return y.detach(), dy, torch.autograd.grad(y.square().sum(), function.attn.qkv.weight)[0]


def test_a_block_with_tangents_compiles_to_one_graph_and_computes_the_same():
    block, inputs = block_and_inputs()
    eager = value_tangent_gradient(block_dual := DualBlock(block), inputs)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block_dual, backend=counter, fullgraph=True)
    for ours, theirs in zip(value_tangent_gradient(compiled, inputs), eager, strict=True):
        assert relative_error(ours, theirs) < 1e-6
    operators = [str(node.target) for graph in counter.graphs for node in graph.graph.nodes]
    assert (counter.frame_count, sum("attention_tangent" in name for name in operators)) == (1, 1)


class DualBlock(nn.Module):
    """A block whose forward is its `with_tangent`."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block, self.attn = block, block.attn

    def forward(self, *inputs):
        return self.block.with_tangent(*inputs)


def test_the_compiled_operator_serves_any_number_of_tokens():
    compiled = torch.compile(attention_dual, backend="aot_eager", fullgraph=True, dynamic=True)
    for N in (4, 17, 130):
        inputs = random_inputs(N, 16)
        assert all(largest(a - b) == 0 for a, b in zip(compiled(*inputs), attention_dual(*inputs), strict=True))


@pytest.mark.parametrize(
    ("tokens", "winners", "asked"),
    [
        (256, {}, False),
        (1024, {}, True),
        (256, {(256, 8): "kernel"}, True),
        (1024, {(1024, 8): "products"}, False),
        (256, {(256, 16): "kernel"}, False),
    ],
)
def test_the_kernel_is_taken_where_it_won_and_unmeasured_from_1024_tokens_on(monkeypatch, tokens, winners, asked):
    from decm.networks import attention, attention_triton

    monkeypatch.setattr(attention, "WINNERS", winners)
    monkeypatch.setattr(attention_triton, "tile_for", lambda q: "a tile")
    assert (attention._tile(torch.empty(1, 2, tokens, 8)) == "a tile") is asked
