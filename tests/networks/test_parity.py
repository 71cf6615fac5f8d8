"""Ours reproduces the public implementations: outputs, derivatives, and no other function by accident."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from decm.flow.flow_map import FlowMap
from decm.networks.weights import load_weights

State = dict[str, Tensor]


def inputs(vectors: State) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return vectors["x"], vectors["t"], vectors.get("s", vectors["t"]), vectors["y"]


def derivative(golden: Any, ds: float, state: State | None = None) -> Tensor:
    network = golden.network()
    load_weights(network, state or golden.state)
    x, t, s, y = inputs(golden.vectors)
    tangents = (golden.vectors["dx"], torch.ones_like(t), torch.full_like(t, ds))
    return FlowMap(network).with_derivative(x, t, s, y, tangents)[1]


def relative(ours: Tensor, reference: Tensor) -> float:
    return float((ours - reference).norm() / reference.norm())


def test_the_output_equals_the_reference_to_1e_5(golden: Any) -> None:
    network = golden.network()
    load_weights(network, golden.state)
    with torch.no_grad():
        out = network(*inputs(golden.vectors))
    torch.testing.assert_close(out, golden.vectors["out"], atol=1e-5, rtol=0)


def test_the_derivative_along_dx_and_t_equals_the_reference_to_1e_4(golden: Any) -> None:
    assert relative(derivative(golden, ds=0.0), golden.vectors["jvp_dx_dt1"]) < 1e-4


def test_the_derivative_along_s_too_equals_the_reference_to_1e_4(two_time: Any) -> None:
    assert relative(derivative(two_time, ds=-0.5), two_time.vectors["jvp_dx_dt1_ds-0.5"]) < 1e-4


def test_a_wrong_sign_of_ds_is_not_within_the_tolerance(two_time: Any) -> None:
    assert relative(derivative(two_time, ds=0.5), two_time.vectors["jvp_dx_dt1_ds-0.5"]) > 1e-2


def queries_for_values(state: State) -> State:
    """The qkv rows in the order v, k, q."""
    swap = lambda rows: torch.cat(rows.chunk(3)[::-1])  # noqa: E731
    return {key: swap(value) if ".qkv." in key else value for key, value in state.items()}


def heads_before_three(state: State) -> State:
    """The qkv rows ordered as (heads, 3, head_dim) instead of (3, heads, head_dim)."""
    regroup = lambda rows: rows.unflatten(0, (3, 4, -1)).transpose(0, 1).flatten(0, 2)  # noqa: E731
    return {key: regroup(value) if ".qkv." in key else value for key, value in state.items()}


def sines_first(state: State) -> State:
    """The time features as 128 sines, then 128 cosines."""
    key = "t_embedder.mlp.0.weight"
    return {**state, key: state[key].roll(128, dims=1)}


def value_before_gate(state: State) -> State:
    """SwiGLU with its two halves exchanged."""
    swap = lambda rows: torch.cat(rows.chunk(2)[::-1])  # noqa: E731
    return {key: swap(value) if ".w12." in key else value for key, value in state.items()}


def scale_before_shift(state: State) -> State:
    """adaLN's first two chunks exchanged."""
    swap = lambda rows: torch.cat([rows.chunk(6)[i] for i in (1, 0, 2, 3, 4, 5)])  # noqa: E731
    return {key: swap(value) if "blocks." in key and "adaLN" in key else value for key, value in state.items()}


MISTAKES = [queries_for_values, heads_before_three, sines_first, value_before_gate, scale_before_shift]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_parity_fails_under_a_mistake_of_layout(golden: Any, mistake: Callable[[State], State]) -> None:
    network = golden.network()
    load_weights(network, mistake(golden.state))
    with torch.no_grad():
        out = network(*inputs(golden.vectors))
    assert (out - golden.vectors["out"]).abs().max() > 1e-3
    assert relative(derivative(golden, 0.0, mistake(golden.state)), golden.vectors["jvp_dx_dt1"]) > 1e-2


def test_parity_fails_with_the_two_embeddings_of_time_exchanged(two_time: Any) -> None:
    names = {"t_embedder": "r_embedder", "r_embedder": "t_embedder"}
    exchanged = {
        ".".join([names.get(key.split(".")[0], key.split(".")[0]), *key.split(".")[1:]]): value
        for key, value in two_time.state.items()
    }
    network = two_time.network()
    load_weights(network, exchanged)
    with torch.no_grad():
        out = network(*inputs(two_time.vectors))
    assert (out - two_time.vectors["out"]).abs().max() > 1e-3
