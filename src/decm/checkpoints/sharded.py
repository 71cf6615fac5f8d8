"""Sharded checkpoints: a folder of safetensors to which each rank writes its part (DCP), and what is no tensor beside.

Written whole or not at all; `rest.pt`, the last to be written, holds the checksums of all the files.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from decm.checkpoints.checksums import file_digest
from decm.checkpoints.durable import PART, SaveError, beside, cause, publish, remove, save_error, saving, sync
from decm.checkpoints.sealed import (
    DamagedError,
    check_seal,
    load_plain,
    num_bytes,
    put_tensors,
    seal,
    take_tensors,
    write_synced,
)

FILES = "files"  # {name: sha256} of the ranks' files
REST = "rest.pt"  # what there is besides tensors
Like = Callable[[str, torch.Size, torch.dtype], Tensor]


def from_all(part: dict[Any, Any]) -> dict[Any, Any]:
    """What each rank has, together; all ranks call it."""
    if not dist.is_initialized():
        return part
    found: list[dict[Any, Any]] = [{}] * dist.get_world_size()
    dist.all_gather_object(found, part)
    return {key: value for part in found for key, value in part.items()}


def write_sharded(checkpoint: dict[str, Any], folder: Path, rank: int, barrier: Callable[[], None]) -> None:
    """Write a checkpoint as a folder; all ranks call it, and each writes what it holds. Whole or not at all.

    Raises SaveError on all ranks if one of them cannot write.
    """
    from torch.distributed.checkpoint import HuggingFaceStorageWriter, save

    part = beside(folder, PART)
    tensors: dict[str, Tensor] = {}
    rest = take_tensors(checkpoint, tensors)
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}  # safetensors takes no others
    with saving(folder, num_bytes(tensors)):
        if rank == 0:
            remove(part)
        barrier()
        save(tensors, storage_writer=HuggingFaceStorageWriter(str(part), save_distributed=True))
        barrier()
        files = from_all({path.name: file_digest(path) for path in part.glob(f"shard-{rank + 1:05d}-*")})
        problems: dict[int, str] = {}
        if rank == 0:
            try:
                write_synced(seal(rest, **{FILES: dict(sorted(files.items()))}), part / REST)
                sync(part)
                publish(part, folder)
            except (OSError, RuntimeError) as error:
                found = cause(error)
                problems[rank] = str(save_error(folder, num_bytes(tensors), found) if found else error)
        for problem in from_all(problems).values():
            raise SaveError(problem)


def read_sharded(folder: Path, like: Like | None = None) -> dict[str, Any]:
    """A sharded checkpoint, with each tensor in the storage that `like(path, size, dtype)` gives; whole by default.

    Raises DamagedError, on all ranks, unless all its files are as they were written.
    """
    from torch.distributed.checkpoint import HuggingFaceStorageReader, load

    rest = read_rest(folder)
    several = dist.is_initialized()
    check_files(folder, rest, *((dist.get_rank(), dist.get_world_size()) if several else (0, 1)))
    like = like or (lambda path, size, dtype: torch.zeros(size, dtype=dtype))
    stored = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors = {key: like(key, tensor.size, tensor.properties.dtype) for key, tensor in stored.items()}  # type: ignore[union-attr]
    load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=not several)
    return put_tensors(rest, tensors)


def check_files(folder: Path, rest: dict[str, Any], rank: int = 0, world_size: int = 1) -> None:
    """Raise DamagedError unless the folder's files have the checksums in `rest`; several ranks check a part each."""
    problems = {}
    for name, expected in list(rest[FILES].items())[rank::world_size]:
        path = folder / name
        found = file_digest(path) if path.is_file() else "missing"
        if found != expected:
            problems[name] = f"{name} has checksum {found[:12]}, expected {expected[:12]}"
    problems = from_all(problems) if world_size > 1 else problems
    extra = {path.name for path in folder.glob("*.safetensors")} - set(rest[FILES])
    if extra:
        problems[min(extra)] = f"{min(extra)} does not belong to it"
    if problems:
        raise DamagedError(folder, problems[min(problems)])


def read_rest(folder: Path) -> dict[str, Any]:
    """What a sharded checkpoint holds besides tensors."""
    if not (folder / REST).is_file():
        raise DamagedError(folder, f"{REST} is missing")
    try:
        rest = load_plain(folder / REST)
        check_seal(rest, folder / REST)
    except DamagedError as error:
        raise DamagedError(folder, f"{REST}: {error.why}") from error
    return rest
