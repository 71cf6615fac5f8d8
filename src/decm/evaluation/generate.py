"""Samples from seeds: sample i has its noise, its renoising and its label from (seed, i) alone."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch import distributed as dist

from decm.flow.flow_map import FlowMap
from decm.flow.randomness import normal
from decm.flow.solvers import sample


def balanced_labels(num: int, num_classes: int) -> Tensor:
    """Labels [num]: sample i has class i mod num_classes, so that every class is as frequent; 0 if unconditional."""
    return torch.arange(num) % max(1, num_classes)


def check_labels(labels: Sequence[int], num_classes: int) -> Tensor:
    """The labels as a tensor [N]. Raises ValueError for one outside 0 .. num_classes - 1."""
    wrong = [label for label in labels if not 0 <= label < max(1, num_classes)]
    if wrong or not labels:
        found = f"labels={list(labels)}, of which {wrong} are no classes" if wrong else "no labels"
        raise ValueError(f"Found {found}; expected classes 0 to {max(1, num_classes) - 1}.")
    return torch.tensor(labels, dtype=torch.int64)


@torch.no_grad()  # not inference_mode: a network that is sharded keeps the tensors it gathers, and trains on
def generate(
    flow_map: FlowMap, shape: Sequence[int], labels: Tensor, nfe: int, sampler: str, seed: int = 0,
    index: Tensor | None = None, device: torch.device | str = "cpu",
) -> Tensor:  # fmt: skip
    """Samples [N, *shape] on the CPU of `labels` [N], with `nfe` network steps; row k is sample number index[k]."""
    index = torch.arange(len(labels)) if index is None else index

    def noise(k: int) -> Tensor:
        return normal(seed, f"renoise/{k}", index, shape).to(device)

    z = normal(seed, "sample", index, shape).to(device)
    return sample(flow_map, z, labels.to(device), nfe, sampler, noise).float().cpu()


def in_batches(num: int, batch_size: int) -> Iterator[Tensor]:
    """The indices 0 .. num - 1 in batches [<= batch_size]."""
    return iter(torch.arange(num).split(batch_size))


def generate_many(
    flow_map: FlowMap, shape: Sequence[int], labels: Tensor, nfe: int, sampler: str, seed: int = 0,
    batch_size: int = 500, device: torch.device | str = "cpu",
) -> Tensor | None:  # fmt: skip
    """`generate` in batches: [N, *shape]; shared by the ranks of torch.distributed where there are several.

    All of them must call it. Rank r of W makes batches r, r + W, ..., and rank 0 gets the samples, the others None. The
    batches are the same for any number of ranks. A network may be sharded over the ranks, so that each call of it is a
    collective: all call it equally often, and a rank that lacks a batch in the last round repeats the last one.
    """
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    batches = list(in_batches(len(labels), batch_size))
    mine = [batches[min(first + rank, len(batches) - 1)] for first in range(0, len(batches), world_size)]
    parts = [generate(flow_map, shape, labels[index], nfe, sampler, seed, index, device) for index in mine]
    if world_size == 1:
        return torch.cat(parts)
    found: list[list[Tensor]] | None = [[]] * world_size if rank == 0 else None
    dist.gather_object(parts, found)  # by way of the GPU where the backend is NCCL
    if found is None:
        return None
    return torch.cat([part for together in zip(*found, strict=True) for part in together][: len(batches)])
