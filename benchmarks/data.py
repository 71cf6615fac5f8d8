"""Samples a second of latents in one process, warm: 64-sample records, one-sample records, raw reads of the same bytes.

python benchmarks/data.py --num 20000
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from decm.data.latents import LatentDataset
from decm.data.making.latent_sets import Plan, finish_set, write_set
from decm.data.making.latent_sources import SyntheticLatents

SHAPE, CLASSES, CHUNK = (32, 16, 16), 1000, 1 << 20


def make(folder: Path, num: int, record_size: int, flip: bool) -> None:
    """A synthetic set of float16 latents, of about 8,192 samples a shard."""
    plan = Plan(
        name=folder.name,
        samples=num,
        shape=SHAPE,
        dtype="float16",
        num_classes=CLASSES,
        flip=flip,
        origin="synthetic",
        extra={"synthetic": True},
        record_size=record_size,
        shard_records=8192 // record_size,
    )
    write_set(folder, plan, SyntheticLatents(SHAPE, CLASSES, "float16", flip, 0), 0, 1, lambda samples: None)
    finish_set(folder, plan)


def batches(folder: Path, batch: int, num: int, flip: bool = False) -> Callable[[], int]:
    """One epoch in batches, through a data set that is opened anew."""

    def epoch() -> int:
        dataset = LatentDataset(folder, flip=flip)
        for first in range(0, num - batch + 1, batch):
            dataset.batch(0, torch.arange(first, first + batch))
        return num // batch * batch

    return epoch


def raw(folder: Path, num: int) -> Callable[[], int]:
    """The bytes of all shards, from beginning to end."""

    def read() -> int:
        for path in sorted(folder.glob("*.tar")):
            with path.open("rb", buffering=0) as file:
                while file.read(CHUNK):
                    pass
        return num

    return read


def rate(run: Callable[[], int], repeats: int) -> float:
    """The median of samples a second, after a first run that warms the page cache."""
    run()
    rates = []
    for _ in range(repeats):
        began = time.perf_counter()
        samples = run()
        rates.append(samples / (time.perf_counter() - began))
    return sorted(rates)[len(rates) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=20_000, help="samples of each set (16 KiB each)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="where the sets are made for a while; by default the system's")
    arguments = parser.parse_args()
    if arguments.num < 1024:
        parser.error("--num: expected 1024 samples or more")
    num, rows = arguments.num, list[tuple[str, Callable[[], int]]]()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        records, single, mirrored = (Path(name) / kind for kind in ("records", "single", "mirrored"))
        make(records, num, 64, flip=False)
        make(single, num, 1, flip=False)
        make(mirrored, num, 64, flip=True)
        rows += [(f"64-sample records, batch {batch}", batches(records, batch, num)) for batch in (256, 1024)]
        rows.append(("64-sample records with flips, batch 1024", batches(mirrored, 1024, num, flip=True)))
        rows.append(("one-sample records, batch 1024", batches(single, 1024, num)))
        rows.append(("raw read of the same bytes", raw(records, num)))
        print(f"Latents {SHAPE} float16, {num:,} samples, one process, {torch.get_num_threads()} threads, warm\n")
        print("| read | samples/s |\n| --- | ---: |")
        for title, run in rows:
            print(f"| {title} | {rate(run, arguments.repeats):,.0f} |", flush=True)


if __name__ == "__main__":
    main()
