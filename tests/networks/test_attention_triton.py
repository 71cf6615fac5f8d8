"""The Triton kernel of attention under a tangent: interpreted on the CPU, compiled for GPUs, run on one if there is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attention_tangents import MISTAKES, by_definition, random_inputs
from decm.networks import attention
from decm.networks.attention import attention_dual
from helpers import relative_error

HERE = Path(__file__).parent
PRECISION = {"float32": 1e-5, "bfloat16": 5e-3, "float16": 6e-4}
CARDS = {"sm_80": 166_912, "sm_89": 101_376, "sm_90": 232_448}  # shared memory of a block, bytes

triton = pytest.importorskip("triton")


def run(verb, folder):
    """Another process, since the interpreter is chosen when Triton is first imported."""
    paths = os.pathsep.join([str(HERE.parents[1] / "src"), str(HERE.parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(folder)}
    command = [sys.executable, str(HERE / "triton_kernel.py"), verb]
    outcome = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout)


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """{case: {truth: [error of o, error of do]}}"""
    return run("interpret", tmp_path_factory.mktemp("triton"))


@pytest.mark.slow
def test_the_interpreted_kernel_is_the_definition_to_the_precision_of_its_type(interpreted):
    worst = {case: max(errors["definition"]) for case, errors in interpreted.items()}
    assert {case: error for case, error in worst.items() if not error < PRECISION[case.split()[0]]} == {}
    for D in (72, 64, 40, 16):
        assert {f"float32 N={N} D={D} tile=64x64" for N in (1, 17, 64, 130)} <= set(worst)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_forgotten_term_is_not_within_the_precision(interpreted, mistake):
    of_tangents = [errors[mistake][1] for errors in interpreted.values() if mistake in errors]
    assert len(of_tangents) > 20
    assert min(of_tangents) > 0.1


@pytest.mark.slow
def test_the_kernel_compiles_for_three_generations_of_gpus_and_fits_their_shared_memory(tmp_path):
    needed = run("compile", tmp_path)
    assert {card: shared <= CARDS[card] for card, (shared, _) in needed.items()} == dict.fromkeys(CARDS, True)


@pytest.mark.parametrize(
    ("head_dim", "expected"),
    [
        (72, (64, 16)),
        (64, (64, 0)),
        (32, (32, 0)),
        (48, (32, 16)),
        (80, (64, 16)),
        (96, (64, 32)),
        (128, (128, 0)),
        (40, (32, 16)),
        (16, (16, 0)),
        (4, (16, 0)),
        (112, (64, 64)),
    ],
)
def test_a_head_dimension_is_split_into_powers_of_two_that_hold_it(head_dim, expected):
    from decm.networks.attention_triton import parts

    assert parts(head_dim) == expected
    assert sum(expected) >= head_dim


@pytest.mark.parametrize("head_dim", [16, 32, 40, 48, 64, 72, 80, 96, 128])
@pytest.mark.parametrize("card", CARDS)
def test_every_head_dimension_has_a_tile_on_every_card(head_dim, card):
    from decm.networks.attention_triton import TILES, fits

    assert any(fits(tile, head_dim, 2, CARDS[card]) for tile in TILES)
    assert not any(fits(tile, 16 * head_dim, 4, 2**10) for tile in TILES)


def test_exact_float32_is_not_for_the_kernel():
    from decm.networks.attention_triton import takes

    assert [takes(dtype) for dtype in (torch.bfloat16, torch.float16, torch.float64)] == [True, True, False]
    before = torch.get_float32_matmul_precision()
    try:
        taken = {}
        for precision in ("highest", "high"):
            torch.set_float32_matmul_precision(precision)
            taken[precision] = takes(torch.float32)
    finally:
        torch.set_float32_matmul_precision(before)
    assert taken == {"highest": False, "high": True}


if torch.cuda.is_available():  # collected on a GPU alone: a skipped test counts as a failure

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
    @pytest.mark.parametrize("D", [72, 64, 32, 48, 80, 96, 128])
    @pytest.mark.parametrize("N", [17, 256, 1100])
    def test_on_a_gpu_products_and_kernel_are_the_definition(monkeypatch, N, D, dtype):
        inputs = [part.cuda() for part in random_inputs(N, D, dtype, batch=2)]
        truth, precision = by_definition(*inputs), {**PRECISION, "float64": 1e-12}[str(dtype)[6:]]
        for tokens, allowed in (
            (0, precision),
            (2**30, 4 * precision),
        ):  # the kernel, then products of the inputs' type
            monkeypatch.setattr(attention, "KERNEL_TOKENS", tokens)
            for ours, theirs in zip(attention_dual(*inputs), truth, strict=True):
                assert relative_error(ours.double(), theirs) < allowed
