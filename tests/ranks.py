"""What the tests of several ranks run in each process; imported by name, so that the processes find it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from decm.evaluation.evaluator import Evaluator
from decm.evaluation.statistics import Reference
from decm.evaluation.suite import MetricSuite, SuiteJudge
from decm.flow.flow_map import FlowMap
from forked import start


class PixelFeatures:
    """An extractor without a network: pixel means and corners as features, so that two ranks can run in a second."""

    name, metric, note, resize = "pixels", "fd", "", "none"
    meaningless, labels_are_classes = False, True

    def __init__(self) -> None:
        self.dims = {"pool": 12, "spatial": 4, "logits": 3}

    def __call__(self, images):
        x = images.float() / 255
        return {
            "pool": x[:, :, :2, :2].flatten(1),
            "spatial": x[:, 0, 2:4, 2:4].flatten(1),
            "logits": 9 * x.mean((2, 3)),
        }

    def to(self, device):
        return self


def images(num: int, seed: int, brightness: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(brightness, (num, 3, 4, 4), generator=generator, dtype=torch.uint8)


def reference(num: int = 150) -> Reference:
    found = PixelFeatures()(images(num, 1))
    moments = {key: (found[key].double().mean(0), torch.cov(found[key].double().T)) for key in ("pool", "spatial")}
    return Reference(moments, {"what": "random pixels", "count": num, "features": "pixels"}, found["pool"])


def scores(rank: int, world: int, num: int, keep: int, empty_rank: bool = False) -> dict[str, float]:
    """The scores of `num` images, of which this rank sees every `world`-th (or rank 0 all of them)."""
    suite = MetricSuite(PixelFeatures(), reference(), num, keep)
    index = torch.arange(num) if empty_rank and rank == 0 else torch.arange(rank, num, world)
    if not (empty_rank and rank):
        for part in index.split(17):
            suite.update(images(num, 2, 200)[part], part % 3, part)
    return suite.compute()


CASES = {"plain": (1000, False), "few_kept": (30, False), "empty_rank": (1000, True)}  # (keep, empty_rank)


def judged_alone(num: int) -> dict[str, float]:
    """The scores of all images by a judge, which must not wait for other ranks."""
    return SuiteJudge([(PixelFeatures(), reference())], lambda x: x).score(images(num, 2, 200), torch.arange(num) % 3)


def evaluated(num: int) -> tuple[dict[int, dict[str, float]] | None, int]:
    """(the scores of `num` samples by an evaluator, of which all ranks make their share; images seen by this rank)."""
    seen = []

    class Counting(PixelFeatures):
        def __call__(self, images):
            seen.append(len(images))
            return super().__call__(images)

    def to_pixels(states):
        return (127 + 60 * states).clamp(0, 255).to(torch.uint8)

    def net(x, t, s, y):
        return torch.sin(3 * x.flip(-1)) + 0.1 * y[:, None, None, None] - t[:, None, None, None]

    judge = SuiteJudge([(Counting(), reference())], to_pixels, batch_size=5)
    return Evaluator(judge, (3, 4, 4), 3, batch_size=7)(FlowMap(net), [1, 4], num, ()), sum(seen)


@contextmanager
def group(rank: int, world: int, folder: str) -> Iterator[None]:
    """A group of `world` processes over gloo, of which this is `rank`."""
    rendezvous, patience = f"file://{folder}/rendezvous", timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world, timeout=patience)
    yield
    dist.destroy_process_group()


def scoring(rank: int, world: int, folder: str, num: int) -> None:
    with group(rank, world, folder):
        if rank == 0:  # one rank judges, the other does not take part
            torch.save(judged_alone(num), f"{folder}/alone.pt")
        found = {name: scores(rank, world, num, *case) for name, case in CASES.items()}
        torch.save(found, f"{folder}/{rank}.pt")


def evaluating(rank: int, world: int, folder: str, num: int) -> None:
    torch.set_num_threads(1)
    with group(rank, world, folder):
        torch.save(evaluated(num), f"{folder}/{rank}.pt")


def run_group(target: Callable[[int, int, str, int], None], world: int, folder: Path, num: int) -> list[Any]:
    """What each rank of a group has saved."""
    processes = [start(target, rank, world, str(folder), num) for rank in range(world)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * world
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]
