"""The pause of a training step that saves a checkpoint: written at once, and copied for a thread that writes it.

A network with AdamW and an average of its weights: four tensors of each size in a checkpoint. Both ways in turns, after
a step that does not save; the figure of a round is the seconds of the step, the saving within it.

python benchmarks/saving.py --out docs/results/saving.json
"""

import argparse
import copy
import datetime
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from speed.report import machine
from torch import nn

from decm.checkpoints.files import write_file
from decm.training.checkpoint_io import CheckpointFiles

WIDTH = 2500


def work(parameters: int) -> tuple[Callable[[], None], Callable[[], dict[str, Any]]]:
    """(a step of a network of about `parameters`, its checkpoint)."""
    layers = max(1, round(parameters / (WIDTH * WIDTH + WIDTH)))
    network = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(layers)))
    average, x = copy.deepcopy(network).requires_grad_(False), torch.randn(8, WIDTH)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)

    def step() -> None:
        network(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 0.001)

    def checkpoint() -> dict[str, Any]:
        states = {"student": network.state_dict(), "ema": average.state_dict()}
        return {"global_step": 1, "state_dict": states, "optimizer_states": [optimizer.state_dict()]}

    return step, checkpoint


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def main() -> None:
    """Measure, print and write the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--parameters", type=int, default=100_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the checkpoints go; otherwise a temporary folder")
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args()
    step, checkpoint = work(options.parameters)
    files, found = CheckpointFiles(), list[dict[str, float]]()
    step()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder, "step_1.ckpt")
        ways = {
            "no save": step,
            "written at once": lambda: (step(), write_file(checkpoint(), path)),
            "copied, then written by a thread": lambda: (step(), files.save_checkpoint(checkpoint(), path)),
            "the step after, beside the thread": step,
        }
        for _ in range(options.rounds):
            found.append({name: seconds(act) for name, act in ways.items()})
            files.wait()
            print({name: f"{value:.2f} s" for name, value in found[-1].items()}, flush=True)
        size = path.stat().st_size
    medians = {name: statistics.median(one[name] for one in found) for name in ways}
    pauses = [medians[name] - medians["no save"] for name in list(ways)[1:3]]
    print(f"pause: {pauses[0]:.2f} s at once, {pauses[1]:.2f} s with a thread: {pauses[1] / pauses[0]:.3f} of it")
    if options.out:
        facts = {
            "command": shlex.join(["python", *sys.argv]),
            "date": datetime.date.today().isoformat(),
            "machine": machine("cpu"),
            "bytes": size,
            "seconds": medians,
            "ratio": pauses[1] / pauses[0],
            "rounds": found,
        }
        options.out.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
