"""Weights load strictly: every key is mapped, named as new or as dropped, or refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from decm.networks.dit import LightningDiT
from decm.networks.weights import load_weights


def output(network: LightningDiT, golden: Any, s: Tensor | None = None) -> Tensor:
    vectors = golden.vectors
    with torch.no_grad():
        return network(vectors["x"], vectors["t"], vectors.get("s", vectors["t"]) if s is None else s, vectors["y"])


# what is loaded


def test_every_released_key_is_mapped_or_named_as_dropped(golden: Any) -> None:
    network = golden.network()
    report = load_weights(network, golden.state)
    assert {*report.mapped, *report.dropped} == set(golden.state)
    assert report.dropped == ["feat_rope.freqs_cos", "feat_rope.freqs_sin"]
    assert report.new == []
    assert set(report.mapped.values()) == set(network.state_dict())
    assert all(torch.equal(network.state_dict()[ours], golden.state[key]) for key, ours in report.mapped.items())


def test_our_own_names_make_the_round_trip_through_a_file(golden: Any, tmp_path: Path) -> None:
    first, second = golden.network(), golden.network()
    load_weights(first, golden.state)
    save_file(first.state_dict(), tmp_path / "model.safetensors")
    report = load_weights(second, tmp_path / "model.safetensors")
    assert all(key == ours for key, ours in report.mapped.items())
    assert report.new == report.dropped == []
    assert torch.equal(output(first, golden), output(second, golden))


@pytest.mark.parametrize("end_embedding", ["raw", "difference"])
def test_a_student_of_one_time_weights_starts_as_its_teacher_for_every_end(qknorm: Any, end_embedding: str) -> None:
    teacher, student = qknorm.network(), qknorm.network(two_times=True, end_embedding=end_embedding)
    load_weights(teacher, qknorm.state)
    report = load_weights(student, qknorm.state)
    assert report.new == [f"s_embedder.mlp.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")]
    for seed in range(3):
        s = torch.rand(4, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(output(student, qknorm, s), output(teacher, qknorm))


def test_two_time_weights_do_depend_on_the_end(two_time: Any) -> None:
    network = two_time.network()
    load_weights(network, two_time.state)
    assert (output(network, two_time, torch.rand(4)) - output(network, two_time)).abs().max() > 1e-3


def test_the_report_reads_as_a_paragraph(released: Any) -> None:
    text = str(load_weights(released.network(two_times=True), {"ema": released.state}))
    assert "\n" not in text
    assert text.startswith("Loaded 37 tensors from a state dict (under 'ema').")
    assert "New, kept as initialized: 4 (s_embedder.mlp.0.weight" in text
    assert "Dropped from the file: 2 (feat_rope.freqs_cos, feat_rope.freqs_sin)." in text


# what is dropped knowingly


def test_two_time_weights_enter_a_one_time_network_only_when_the_end_embedding_is_dropped(two_time: Any) -> None:
    network = two_time.network(two_times=False)
    with pytest.raises(ValueError, match="two_times=true, or drop the end") as refused:
        load_weights(network, two_time.state)
    assert "s_embedder.mlp.0.weight: found (64, 256), expected no such key" in str(refused.value)
    for name in ("s_embedder", "r_embedder"):
        assert "r_embedder.mlp.2.bias" in load_weights(network, two_time.state, drop=[name]).dropped


def test_an_end_embedding_may_be_dropped_and_begun_anew(two_time: Any) -> None:
    report = load_weights(two_time.network(), two_time.state, drop=["s_embedder"])
    assert len(report.new) == 4
    assert len([key for key in report.dropped if key.startswith("r_embedder")]) == 4


def test_a_drop_without_effect_is_refused(released: Any) -> None:
    with pytest.raises(ValueError, match=r"drop='s_embed' matches no key"):
        load_weights(released.network(), released.state, drop=["s_embed"])


def test_dropping_what_the_network_needs_is_refused(released: Any) -> None:
    with pytest.raises(ValueError, match=r"t_embedder.mlp.0.weight: found nothing, expected \(64, 256\)"):
        load_weights(released.network(), released.state, drop=["t_embedder"])


def test_a_trained_end_embedding_is_not_kept_with_one_time_weights(released: Any, two_time: Any) -> None:
    student = two_time.network(qk_norm=False)
    torch.nn.init.ones_(student.s_embedder.mlp[2].weight)
    with pytest.raises(ValueError, match="already trained"):
        load_weights(student, released.state)


def test_half_an_end_embedding_is_refused(two_time: Any) -> None:
    del two_time.state["r_embedder.mlp.2.bias"]
    with pytest.raises(ValueError, match=r"s_embedder.mlp.2.bias: found nothing, expected \(64,\)"):
        load_weights(two_time.network(), two_time.state)


# what is refused


def test_a_missing_a_misshapen_and_an_unknown_key_are_each_named_with_shapes(released: Any) -> None:
    state = dict(released.state)
    del state["pos_embed"]
    state["x_embedder.proj.bias"] = torch.zeros(65)
    state["blocks.0.attn.bias_table"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"\(3 keys\)") as refused:
        load_weights(released.network(), state)
    assert "pos_embed: found nothing, expected (1, 64, 64)" in str(refused.value)
    assert "x_embedder.bias: found (65,), expected (64,)" in str(refused.value)
    assert "blocks.0.attn.bias_table: found (3,), expected no such key" in str(refused.value)


def test_a_refused_file_leaves_the_network_as_it_was(released: Any) -> None:
    network = released.network()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError, match="does not fit"):
        load_weights(network, {**released.state, "extra": torch.zeros(1)})
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_the_first_ten_problems_are_listed_and_the_rest_counted(released: Any) -> None:
    state = {key: value for key, value in released.state.items() if not key.startswith("blocks.")}
    with pytest.raises(ValueError, match=r"\(24 keys\)") as refused:
        load_weights(released.network(), {**state, "blocks.0.norm1.weight": torch.zeros(64)} | {"odd": torch.ones(1)})
    assert str(refused.value).count("expected") == 10
    assert "and 14 more" in str(refused.value)


def test_one_weight_under_two_names_is_refused(released: Any) -> None:
    twin = {"y_embedder.weight": released.state["y_embedder.embedding_table.weight"]}
    with pytest.raises(ValueError, match=r"twice: .*y_embedder.weight"):
        load_weights(released.network(), released.state | twin)
