"""How the time of a training step grows with batch, width, tokens, segments and ranks, against its operations.

The points of an axis take turns on one thread of the CPU. `excess` is the time an operation as a multiple of the least
of the axis: where it grows along an axis, something beside the products does. Ranks are processes of one thread, whose
gradients DDP adds up over gloo; theirs is the time on the clock, all else processor time.

python benchmarks/scaling.py --out docs/results/scaling
"""

import argparse
import datetime
import json
import shlex
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from speed.cases import NETWORKS, Case
from speed.report import machine
from speed.work import Work
from torch import Tensor, distributed, nn
from torch.multiprocessing import get_context
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Point:
    """A training step of some size, of a rank: the first `segments` of DE-CM's."""

    batch: int = 32
    width: int = 192
    tokens: int = 16
    segments: int = 3
    ranks: int = 1


AXES: dict[str, list[Point]] = {
    "batch": [Point(batch=batch) for batch in (8, 16, 32, 64, 128, 256, 512)],
    "width": [Point(batch=8, width=width) for width in (96, 192, 384, 768)],
    "tokens": [Point(batch=4, tokens=tokens) for tokens in (4, 16, 64, 256, 1024)],
    "segments": [Point(segments=segments) for segments in (1, 2, 3)],
    "ranks": [Point(ranks=ranks) for ranks in (1, 2)],
}


def work_of(point: Point) -> Work:
    """The step on a transformer of depth 2, heads of 32."""
    name = str(point)
    NETWORKS[name] = (
        "network=lightningdit_b_1",
        "network.depth=2",
        f"network.hidden_size={point.width}",
        f"network.num_heads={point.width // 32}",
        f"network.input_size={round(point.tokens**0.5)}",
    )
    work = Work(Case("step", "dual", network=name, batch=point.batch), "cpu")
    work.trajectories = work.trajectories[: point.segments]
    return work


def operations(work: Work) -> float:
    """Floating-point operations a step, averaged over the cycle of N2N."""
    with FlopCounterMode(display=False) as counter:
        for k in work.steps:
            work.step(k)
    return counter.get_total_flops() / len(work.steps)


def measured(points: Sequence[Point], rounds: int) -> list[dict[str, float]]:
    """{seconds, operations} a step of each point; the median of rounds in turns."""
    works = [work_of(point) for point in points]
    counts = [operations(work) for work in works]  # warms up, too
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, taken in zip(works, times, strict=True):
            began = time.process_time()
            for k in work.steps:
                work.step(k)
            taken.append((time.process_time() - began) / len(work.steps))
    return [
        {"seconds": statistics.median(taken), "operations": count} for taken, count in zip(times, counts, strict=True)
    ]


class Loss(nn.Module):
    """A work's loss as a module's forward pass, which is what DDP wraps."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.student, self.work = work.module.student, work

    def forward(self, k: int) -> Tensor:
        return self.work.loss(k)


def rank_of(rank: int, world: int, port: int, rounds: int, answers: Any) -> None:
    """One rank's steps; the first one puts {seconds, operations} a step into `answers`."""
    torch.set_num_threads(1)
    patience = timedelta(seconds=300)
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", patience, world_size=world, rank=rank)
    work = work_of(Point())
    loss, taken = DistributedDataParallel(Loss(work)), []
    for turn in range(rounds + 1):  # the first one warms up
        distributed.barrier()
        began = time.perf_counter()
        for k in work.steps:
            loss(k).backward()
            work.optimizer.step()
            work.optimizer.zero_grad(set_to_none=False)
        taken += [(time.perf_counter() - began) / len(work.steps)] if turn else []
    if rank == 0:
        answers.put({"seconds": statistics.median(taken), "operations": operations(work_of(Point()))})
    distributed.destroy_process_group()


def of_ranks(points: Sequence[Point], rounds: int) -> list[dict[str, float]]:
    """{seconds, operations} a step of a rank, by the number of ranks."""
    context, found = get_context("spawn"), []
    for point in points:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        answers = context.Queue()
        processes = [
            context.Process(target=rank_of, args=(rank, point.ranks, port, rounds, answers))
            for rank in range(point.ranks)
        ]
        for process in processes:
            process.start()
        found.append(answers.get(timeout=600))
        for process in processes:
            process.join()
    return found


def figure(axes: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Seconds a step over operations, and the excess, a panel an axis."""
    drawing = Figure(figsize=(3 * len(axes), 2.8), layout="constrained")
    for panel, (name, rows) in zip(drawing.subplots(1, len(axes), sharey=True), axes.items(), strict=True):
        panel.plot([row[name] for row in rows], [row["excess"] for row in rows], "o-")
        panel.set_xscale("log", base=2)
        panel.set_xticks([row[name] for row in rows], [str(row[name]) for row in rows])
        panel.set_xlabel(name)
        panel.axhline(1, color="gray", linewidth=0.8)
    most = max(row["excess"] for rows in axes.values() for row in rows)
    drawing.axes[0].set(ylim=(0, 1.05 * most), ylabel="time an operation, of the least")
    drawing.savefig(path, metadata={"Date": None})


def table(axes: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a line a point."""
    lines = [
        "| axis | value | ms a step | GFLOP a step | GFLOP/s | excess |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, rows in axes.items():
        for row in rows:
            rate = row["operations"] / row["seconds"] / 1e9
            lines.append(
                f"| {name} | {row[name]} | {1e3 * row['seconds']:.1f} | {row['operations'] / 1e9:.2f} | {rate:.1f} | "
                f"{row['excess']:.2f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure all axes; print the table, and write it with the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--axes", nargs="*", choices=AXES, default=list(AXES))
    parser.add_argument("--out", type=Path, help="without an ending: .json, .md and .svg are written")
    options = parser.parse_args()
    torch.set_num_threads(1)
    axes: dict[str, list[dict[str, Any]]] = {}
    for name in options.axes:
        points = AXES[name]
        found = (of_ranks if name == "ranks" else measured)(points, options.rounds)
        least = min(one["seconds"] / one["operations"] for one in found)
        axes[name] = [
            {name: getattr(point, name), **one, "excess": one["seconds"] / one["operations"] / least}
            for point, one in zip(points, found, strict=True)
        ]
        print(table({name: axes[name]}), flush=True)
    if options.out:
        command = shlex.join(["python", *sys.argv])
        about = {
            "command": command,
            "machine": machine("cpu"),
            "date": str(datetime.date.today()),
            "base": vars(Point()),
        }
        record = json.dumps({**about, "axes": axes}, indent=2)
        options.out.with_suffix(".json").write_text(f"{record}\n", encoding="utf-8")
        text = f"{table(axes)}\n\nMeasured here: {about['machine']}, {about['date']}, `{command}`.\n"
        options.out.with_suffix(".md").write_text(text, encoding="utf-8")
        figure(axes, options.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
