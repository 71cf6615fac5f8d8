"""Bytes of activations: measured on small transformers, fitted, and foretold for large ones.

    peak = rows tokens width (saved depth + passing) + copies depth width^2

`saved` [bytes a token, a block and a unit of width] stays from the forward to the backward pass; `passing` is the most
that is alive besides, within a block; `copies` are of weights in bf16, which autocast keeps for the backward pass
(2 bytes of 18 width^2 weights). Given the number of tokens and the head dimension, nothing else counts.
"""

import json
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from speed.cases import NETWORKS, Case
from speed.timing import alone, resident, resident_peak
from speed.work import Work

TOKENS = 256
GRID = ((192, 2, 8), (192, 6, 8), (384, 2, 4), (384, 4, 4))  # width, depth, rows


@dataclass(frozen=True)
class Fit:
    """The three constants of the formula."""

    saved: float
    passing: float
    copies: float

    def peak(self, rows: int, width: int, depth: int) -> float:
        """Bytes of a step whose student sees `rows` rows of 256 tokens, with tangents or without."""
        return rows * TOKENS * width * (self.saved * depth + self.passing) + self.copies * depth * width**2


def sized(case: Case, width: int, depth: int, rows: int) -> Case:
    """The case on a transformer of 256 tokens and heads of 64."""
    name = f"width {width}, depth {depth}"
    sizes = (f"network.hidden_size={width}", f"network.depth={depth}", f"network.num_heads={width // 64}")
    NETWORKS[name] = ("network=lightningdit_b_1", *sizes)
    return replace(case, network=name, batch=rows)


def measure(case: Case, width: int, depth: int, rows: int) -> dict[str, int]:
    """Bytes at the peak of a step with N2N, in this process: over what the step began with, and over no networks."""
    start = resident()
    work = Work(sized(case, width, depth, rows), "cpu")
    for _ in range(2):
        work.step(0)
    before = resident()
    peak = resident_peak(lambda: work.step(0))
    return {"peak": peak, "total": before - start + peak}


def measured(*steps: tuple[Case, int, int, int]) -> list[dict[str, int]]:
    """The same for each (case, width, depth, rows), all in one process of its own."""
    return alone("speed.activations", {"steps": [(asdict(case), *size) for case, *size in steps]})["found"]


def fit(found: list[dict[str, int]], grid: tuple[tuple[int, int, int], ...] = GRID) -> tuple[Fit, float]:
    """Least squares of relative errors of what was `found` on the grid of (width, depth, rows); the largest error."""
    peaks = torch.tensor([one["peak"] for one in found], dtype=torch.float64)
    terms = [(B * TOKENS * w * depth, B * TOKENS * w, depth * w**2) for w, depth, B in grid]
    scaled = torch.tensor(terms, dtype=torch.float64) / peaks[:, None]
    one = torch.ones(len(peaks), 1, dtype=torch.float64)
    constants = torch.linalg.lstsq(scaled, one).solution
    return Fit(*constants.flatten().tolist()), float((scaled @ constants - one).abs().max())


def main() -> None:
    question: dict[str, Any] = json.loads(sys.argv[1])
    print(json.dumps({"found": [measure(Case(**case), *size) for case, *size in question["steps"]]}))


if __name__ == "__main__":
    main()
