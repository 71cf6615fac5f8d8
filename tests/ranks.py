"""What the two-process tests run in each process; imported by name, so that spawned processes find it."""

from datetime import timedelta

import torch
from torch import distributed as dist

from decm.evaluation.statistics import Reference
from decm.evaluation.suite import MetricSuite, SuiteJudge


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


def worker(rank: int, world: int, folder: str, num: int) -> None:
    rendezvous, patience = f"file://{folder}/rendezvous", timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world, timeout=patience)
    if rank == 0:  # as evaluation in the loop: one rank judges, the other does not take part
        torch.save(judged_alone(num), f"{folder}/alone.pt")
    found = {name: scores(rank, world, num, *case) for name, case in CASES.items()}
    torch.save(found, f"{folder}/scores_{rank}.pt")
    dist.destroy_process_group()
