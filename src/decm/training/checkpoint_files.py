"""Checkpoint files: one file, or a folder of safetensors to which each rank writes its part (DCP), and their reading.

Nothing but tensors and plain containers is ever read (`weights_only`).
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

REST = "rest.pt"  # what a sharded checkpoint holds besides tensors; written last, so that it marks a whole one
TENSOR = "<tensor>"  # the key of a dict that stands for a tensor in it
SEPARATOR = "/"
Like = Callable[[str, torch.Size, torch.dtype], Tensor]


def take_tensors(node: Any, found: dict[str, Tensor], path: str = "") -> Any:
    """A copy of nested containers whose tensors are put into `found`, under the path to each."""
    if isinstance(node, Tensor):
        found[path] = node
        return {TENSOR: path}
    step = f"{path}{SEPARATOR}" if path else ""
    if isinstance(node, dict):
        return {key: take_tensors(value, found, f"{step}{key}") for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(take_tensors(value, found, f"{step}{k}") for k, value in enumerate(node))
    return node


def put_tensors(node: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `take_tensors`."""
    if isinstance(node, dict):
        if set(node) == {TENSOR}:
            return tensors[node[TENSOR]]
        return {key: put_tensors(value, tensors) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(put_tensors(value, tensors) for value in node)
    return node


def write_sharded(checkpoint: dict[str, Any], folder: Path, rank: int, barrier: Callable[[], None]) -> None:
    """Write a checkpoint as a folder; all ranks call it, and each writes what it holds. Whole or not at all."""
    from torch.distributed.checkpoint import HuggingFaceStorageWriter, save

    part = folder.with_name(f"{folder.name}.part")
    if rank == 0:
        shutil.rmtree(part, ignore_errors=True)
    barrier()
    tensors: dict[str, Tensor] = {}
    rest = take_tensors(checkpoint, tensors)
    save(tensors, storage_writer=HuggingFaceStorageWriter(str(part), save_distributed=True))
    barrier()
    if rank == 0:
        torch.save(rest, part / REST)
        if folder.exists():
            shutil.move(folder, old := folder.with_name(f"{folder.name}.old"))
            part.rename(folder)
            shutil.rmtree(old)
        else:
            part.rename(folder)
    barrier()


def read_sharded(folder: Path, like: Like | None = None) -> dict[str, Any]:
    """A sharded checkpoint, with each tensor in the storage that `like(path, size, dtype)` gives; whole by default."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader, load

    like = like or (lambda path, size, dtype: torch.zeros(size, dtype=dtype))
    stored = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors = {key: like(key, facts.size, facts.properties.dtype) for key, facts in stored.items()}  # type: ignore[union-attr]
    load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=not dist.is_initialized())
    return put_tensors(read_rest(folder), tensors)


def read_rest(folder: Path) -> dict[str, Any]:
    """What a sharded checkpoint holds besides tensors."""
    return torch.load(folder / REST, map_location="cpu", weights_only=True)


def stored_step(path: Path) -> int:
    """The optimizer step that a checkpoint was written at."""
    facts = read_rest(path) if path.is_dir() else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return int(facts["global_step"])


def read_file(path: Path) -> dict[str, Any]:
    """A checkpoint of either kind, whole, on the CPU."""
    return read_sharded(path) if path.is_dir() else torch.load(path, map_location="cpu", weights_only=True)
