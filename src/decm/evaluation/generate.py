"""Samples from seeds: sample i has its noise, its renoising and its label from (seed, i) alone."""

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any
from unicodedata import normalize

import torch
from torch import Tensor
from torch import distributed as dist

from decm.flow.flow_map import FlowMap
from decm.flow.randomness import normal
from decm.flow.solvers import sample

Rows = dict[str, Tensor]  # by name, a row a sample, on the CPU


def balanced_labels(num: int, num_classes: int) -> Tensor:
    """Labels [num]: sample i has class i mod num_classes, so that every class is as frequent; 0 if unconditional."""
    return torch.arange(num) % max(1, num_classes)


def check_labels(labels: Sequence[Any], num_classes: int, class_names: Sequence[str] | None = None) -> Tensor:
    """The labels as a tensor [N]: a whole number is a label itself, a text the label of the class of that name.

    So where names are numbers, 2 is the third class, and "2" the one that is called 2. Raises ValueError for anything
    else, a label outside 0 .. num_classes - 1, and a name that no class has or several have.
    """
    numbers = [_label(f"labels[{k}]", label, num_classes, class_names or ()) for k, label in enumerate(labels)]
    wrong = [label for label in numbers if not 0 <= label < max(1, num_classes)]
    if wrong or not numbers:
        found = f"labels={numbers}, of which {wrong} are no classes" if wrong else "no labels"
        raise ValueError(f"Found {found}; expected classes 0 to {max(1, num_classes) - 1}.")
    return torch.tensor(numbers, dtype=torch.int64)


def _label(key: str, label: Any, num_classes: int, class_names: Sequence[str]) -> int:
    if not isinstance(label, str):
        try:
            if not isinstance(label, bool):
                return operator.index(label)
        except TypeError:
            pass
        raise ValueError(f"{key}={label!r}; expected a whole number, or the name of a class.")
    found = [k for k, name in enumerate(class_names) if name == label]
    found = found or [k for k, name in enumerate(class_names) if normalize("NFC", name) == normalize("NFC", label)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"{key}={label!r} is ambiguous: the labels {', '.join(map(str, found))} are called so. Pass one of them."
        )
    if not class_names:
        raise ValueError(
            f"{key}={label!r}: the names of the classes are not known; expected a whole number, a label from 0 to "
            f"{max(1, num_classes) - 1}."
        )
    raise ValueError(
        f"{key}={label!r} is the name of no class{_close(label, class_names)}; expected the name of a class, or "
        "its label, a whole number."
    )


def _close(label: str, class_names: Sequence[str]) -> str:
    """`: close are 'cat' (3), 'cats' (7)`; the names that contain the text, or are spelled almost like it."""
    folded = [name.casefold() for name in class_names]
    wanted = label.casefold()
    alike = dict.fromkeys(get_close_matches(wanted, folded, 5))
    alike |= {name: None for name in folded if wanted and wanted in name}
    found = [(class_names[k], k) for name in alike for k, other in enumerate(folded) if other == name]
    return f": close are {', '.join(f'{name!r} ({k})' for name, k in found[:5])}" if found else ""


def itself(samples: Tensor) -> Rows:
    """The samples, as rows of that name."""
    return {"samples": samples}


@torch.no_grad()  # not inference_mode: a network that is sharded keeps the tensors it gathers, and trains on
def generate(
    flow_map: FlowMap,
    shape: Sequence[int],
    labels: Tensor,
    nfe: int,
    sampler: str,
    seed: int = 0,
    index: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Samples [N, *shape] on the CPU of `labels` [N], with `nfe` network steps; row k is sample number index[k]."""
    index = torch.arange(len(labels)) if index is None else index

    def noise(k: int) -> Tensor:
        return normal(seed, f"renoise/{k}", index, shape).to(device)

    z = normal(seed, "sample", index, shape).to(device)
    return sample(flow_map, z, labels.to(device), nfe, sampler, noise).float().cpu()


def in_batches(num: int, batch_size: int) -> Iterator[Tensor]:
    """The indices 0 .. num - 1 in batches [<= batch_size]."""
    return iter(torch.arange(num).split(batch_size))


def joined(parts: Iterable[Rows]) -> Rows:
    """The rows of several batches, in their order."""
    first, *others = parts
    return {name: torch.cat([rows, *(other[name] for other in others)]) for name, rows in first.items()}


def generate_many(
    flow_map: FlowMap,
    shape: Sequence[int],
    labels: Tensor,
    nfe: int,
    sampler: str,
    seed: int = 0,
    batch_size: int = 500,
    device: torch.device | str = "cpu",
    look: Callable[[Tensor], Rows] = itself,
) -> Rows | None:
    """What `look` sees of each batch of `generate` (the samples): N rows by name; the work of all ranks, if several.

    All of them must call it. Rank r of W makes batches r, r + W, ... and looks at them; rank 0 gets the rows, the
    others None. The batches are the same for any number of ranks. A network may be sharded over the ranks, so that each
    call of it is a collective: all call it equally often, and a rank that lacks a batch in the last round repeats the
    last one.
    """
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    batches, parts = list(in_batches(len(labels), batch_size)), dict[int, Rows]()
    for first in range(0, len(batches), world_size):
        index = batches[min(first + rank, len(batches) - 1)]
        made = generate(
            flow_map, shape, labels=labels[index], nfe=nfe, sampler=sampler, seed=seed, index=index, device=device
        )
        if first + rank < len(batches):
            parts[first + rank] = look(made)
    if world_size > 1:
        found: list[dict[int, Rows]] | None = [{}] * world_size if rank == 0 else None
        dist.gather_object(parts, found)  # by way of the GPU where the backend is NCCL
        if found is None:
            return None
        parts = {number: rows for part in found for number, rows in part.items()}
    return joined(parts[number] for number in range(len(batches)))
