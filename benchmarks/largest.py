"""Memory per GPU of large transformers under ddp and fsdp, on the meta device: nothing is allocated.

    python benchmarks/largest.py --batch 32      (activations from the constants in docs/results/activations.json)
    python benchmarks/largest.py --measure       (measures those constants again on the CPU, in minutes)

Sizes are of a whole DE-CM step with N2N: three rows of the student for each sample.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from speed.activations import GRID, Fit, fit, measured
from speed.cases import Case

from decm.experiment.build import build_network
from decm.settings.composition import compose

FITS = Path(__file__).resolve().parents[1] / "docs/results/activations.json"
SIZES = {  # Hydra overrides
    "XL/1": ("network=lightningdit_xl_1",),
    "1p6B": ("network=lightningdit_1p6b",),
    "7B": ("network=lightningdit_1p6b", "network.hidden_size=3328", "network.depth=35", "network.num_heads=26"),
}
ENGINES = {  # as they run on a GPU
    "dual": Case("branch", "dual", compiled=True),
    "split": Case("branch", "split", compiled=True),
    "split, checkpointed": Case("branch", "split", compiled=True, checkpointed=True),
}
PRECISIONS = {"ddp": "bf16", "fsdp": "cast"}  # autocast; parameters cast by FSDP2
ROWS = 3  # of the student for a sample: flow matching, consistency, and N2N at every third step
FLOAT, HALF, GB = 4, 2, 1e9


@dataclass(frozen=True)
class Size:
    """Parameters of student and teacher, and of what is gathered at once: a block, and what belongs to none."""

    width: int
    depth: int
    student: int
    teacher: int
    block: int

    @property
    def rest(self) -> int:
        return self.student - self.depth * self.block


def size_of(overrides: tuple[str, ...]) -> Size:
    """Counted on the meta device."""
    network = compose("train", ["experiment=decm_imagenet", *overrides]).network
    with torch.device("meta"):
        student, teacher = (build_network(network, 0, two_times=two_times) for two_times in (True, False))
    count, frozen, block = (sum(p.numel() for p in n.parameters()) for n in (student, teacher, student.blocks[0]))
    return Size(network.hidden_size, network.depth, count, frozen, block)


def per_gpu(size: Size, strategy: str, gpus: int, reshard: bool) -> dict[str, float]:
    """Bytes on each GPU besides the activations.

    Under ddp every GPU has all (gradients are views of DDP's buckets); the copies of weights that autocast makes are
    among the activations. Under fsdp the float32 parts are split; weights are gathered in bf16, all
    of them, or with `reshard` two blocks (one is fetched ahead) and the rest, and two blocks' gradients await their
    reduction (bf16, and float32 for the sum).
    """
    part = gpus if strategy == "fsdp" else 1
    held = {
        "parameters": FLOAT * size.student,
        "gradients": FLOAT * size.student,
        "optimizer": 2 * FLOAT * size.student,
        "EMA": FLOAT * size.student,
        "teacher": FLOAT * size.teacher,
    }
    held = {name: value / part for name, value in held.items()}
    if strategy == "ddp":
        return held | {"gathered": 0.0, "buckets": 0.0}
    two_blocks = 2 * size.block + size.rest
    gathered = HALF * (2 * two_blocks if reshard else size.student + size.teacher)
    return held | {"gathered": gathered, "buckets": (HALF + FLOAT) * 2 * size.block}


def table(fits: dict[str, Fit], batch: int, strategies: list[tuple[str, int, bool]]) -> str:
    """One line for each size and strategy, in GB; the last columns are totals by engine."""
    columns = [
        "network",
        "strategy",
        "GPUs",
        "weights, gradients, optimizer",
        "EMA",
        "teacher",
        "gathered in bf16",
        "buckets",
    ]
    columns += [f"activations, {engine}" for engine in ENGINES] + [f"total, {engine}" for engine in ENGINES]
    lines = ["| " + " | ".join(columns) + " |", "| --- | --- " + "| ---: " * (len(columns) - 2) + "|"]
    for name, overrides in SIZES.items():
        size = size_of(overrides)
        for strategy, gpus, reshard in strategies:
            held = per_gpu(size, strategy, gpus, reshard)
            alive = [
                fits[f"{engine}, {PRECISIONS[strategy]}"].peak(ROWS * batch, size.width, size.depth)
                for engine in ENGINES
            ]
            own = held["parameters"] + held["gradients"] + held["optimizer"]
            others = [held[part] for part in ("EMA", "teacher", "gathered", "buckets")]
            figures = [own, *others, *alive, *(sum(held.values()) + value for value in alive)]
            cells = [f"{name} ({size.student / 1e9:.2f}B)", strategy + (", reshard" if reshard else ""), str(gpus)]
            lines.append("| " + " | ".join([*cells, *(f"{value / GB:.1f}" for value in figures)]) + " |")
    return "\n".join(lines)


def measure_fits() -> dict[str, Fit]:
    """The constants for every engine and precision; prints how well they fit."""
    found = {}
    for name, case in ENGINES.items():
        for precision in PRECISIONS.values():
            key = f"{name}, {precision}"
            there = Case(case.what, case.engine, case.compiled, case.checkpointed, precision)
            found[key], error = fit(measured(*((there, *size) for size in GRID)))
            print(f"{key}: {found[key]}, largest error {100 * error:.1f}%", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="samples on each GPU at a time")
    parser.add_argument("--measure", action="store_true", help="measure the activations' bytes again, and keep them")
    args = parser.parse_args()
    if args.measure:
        FITS.write_text(
            json.dumps({key: asdict(found) for key, found in measure_fits().items()}, indent=2) + "\n", encoding="utf-8"
        )
    fits = {key: Fit(**constants) for key, constants in json.loads(FITS.read_text(encoding="utf-8")).items()}
    strategies = [
        ("ddp", 8, False),
        ("ddp", 64, False),
        *(("fsdp", n, reshard) for n in (8, 64) for reshard in (False, True)),
    ]
    print(f"GB on each GPU, {args.batch} samples on each, bf16\n")
    print(table(fits, args.batch, strategies))


if __name__ == "__main__":
    main()
