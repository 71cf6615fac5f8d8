"""Memory as foretold by benchmarks/largest.py, and that it grows with depth as a plain step's does."""

import pytest
from largest import SIZES, Size, per_gpu, size_of
from speed.activations import fit, measured
from speed.cases import Case

pytestmark = pytest.mark.slow
SHALLOW, DEEP, WIDTH, ROWS = 2, 8, 192, 4
GRID = ((128, 2, 6), (128, 6, 4), (256, 2, 3), (256, 4, 2))  # width, depth, rows
WHOLE = (192, 4, 2)
ENGINES = ("plain", "dual", "joint")


@pytest.fixture(scope="module")
def bytes_of():
    """{(case, width, depth, rows): bytes}, all measured in one process."""
    branches = [(Case("branch", engine), WIDTH, depth, ROWS) for engine in ENGINES for depth in (SHALLOW, DEEP)]
    tiny = (Case("step", "dual"), 64, 1, 1)  # loads what is loaded at a first step
    grid = [(Case("branch", "dual"), *size) for size in GRID]
    steps = [tiny, (Case("step", "dual"), *WHOLE), *grid, *branches]
    return dict(zip(steps, measured(*steps), strict=True))


def test_peak_memory_grows_with_depth_no_faster_than_that_of_a_step_without_tangents(bytes_of):
    def growth(engine):
        shallow, deep = (bytes_of[Case("branch", engine), WIDTH, depth, ROWS]["peak"] for depth in (SHALLOW, DEEP))
        return deep - shallow

    plain, dual, joint = (growth(engine) for engine in ENGINES)
    assert plain > 100e6, "far above the allocator's noise"
    assert dual < 1.15 * plain
    assert joint > 2 * plain, "the control: a tangent that stays in the graph is seen"


def test_memory_is_foretold_to_a_tenth(bytes_of):
    """Activations fitted on steps of one segment; a whole step, three rows of the student a sample, of another size."""
    width, depth, samples = WHOLE
    constants, error = fit([bytes_of[Case("branch", "dual"), *size] for size in GRID], GRID)
    assert error < 0.05
    found = bytes_of[Case("step", "dual"), *WHOLE]
    activations = constants.peak(3 * samples, width, depth)
    assert activations == pytest.approx(found["peak"], rel=0.1)
    overrides = (*SIZES["XL/1"], f"network.hidden_size={width}", f"network.depth={depth}", "network.num_heads=3")
    held = per_gpu(size_of(overrides), "ddp", 1, reshard=False)
    alone = ("parameters", "gradients", "optimizer", "teacher")  # in float32, without DDP and EMA
    assert sum(held[part] for part in alone) + activations == pytest.approx(found["total"], rel=0.1)


def test_sharding_divides_what_is_held_and_gathers_in_half_precision():
    size = Size(width=8, depth=10, student=1100, teacher=1000, block=100)
    ddp, whole, blocks = per_gpu(size, "ddp", 8, False), per_gpu(size, "fsdp", 8, False), per_gpu(size, "fsdp", 8, True)
    for part in ("parameters", "gradients", "optimizer", "EMA", "teacher"):
        assert ddp[part] == 8 * whole[part] == 8 * blocks[part]
    assert whole["gathered"] == 2 * (1100 + 1000)
    assert blocks["gathered"] == 2 * 2 * (2 * 100 + 100)


def test_sizes_are_counted_without_weights():
    size = size_of(SIZES["7B"])
    assert 6.9e9 < size.student < 7.1e9
    assert size.block == pytest.approx(18 * size.width**2, rel=0.01)
    assert size.rest < size.block
