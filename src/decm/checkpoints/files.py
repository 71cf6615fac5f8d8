"""Checkpoints of either kind, one file or a folder that ranks wrote together: written whole or not at all, and checked.

Whichever kind was written, any strategy can go on from it.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from decm.checkpoints.durable import PART, beside, publish, saving
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
from decm.checkpoints.sharded import check_files, read_rest, read_sharded


def write_file(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint as one file, whole or not at all. Raises SaveError if it cannot be written."""
    tensors: dict[str, Tensor] = {}
    take_tensors(checkpoint, tensors)
    sealed = seal(checkpoint)
    with saving(path, num_bytes(tensors)):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(sealed, beside(path, PART))
        publish(beside(path, PART), path)


def read_file(path: Path) -> dict[str, Any]:
    """A checkpoint of either kind, whole, on the CPU. Raises DamagedError unless it is what was written."""
    if path.is_dir():
        return read_sharded(path)
    tensors: dict[str, Tensor] = {}
    rest = take_tensors(verify(path), tensors)
    return put_tensors(rest, {key: tensor.clone() for key, tensor in tensors.items()})  # off the file


def verify(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, its tensors not in memory (or, of a folder, not at all), after all of it was checked.

    Raises DamagedError as `read_file` does.
    """
    if path.is_dir():
        rest = read_rest(path)
        check_files(path, rest)
        return rest
    checkpoint = load_plain(path)
    check_seal(checkpoint, path)
    return checkpoint


def read_metadata(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, its tensors not in memory, unchecked."""
    return read_rest(path) if path.is_dir() else load_plain(path)


def stored_step(path: Path) -> int:
    """The optimizer step that a checkpoint was written at."""
    content = read_metadata(path)
    if not isinstance(content, dict) or "global_step" not in content:
        raise DamagedError(path, "it has no global_step")
    return int(content["global_step"])
