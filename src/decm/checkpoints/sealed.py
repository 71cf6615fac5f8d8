"""The contents of a checkpoint: a schema version and a checksum around tensors and plain containers.

Nothing else is ever read, and no pickle is executed (`weights_only`).
"""

import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decm.checkpoints.checksums import digest
from decm.checkpoints.first_process import is_first

SCHEMA, VERSION, CHECKSUM = 1, "schema_version", "checksum"
TENSOR = "<tensor>"  # the key of a dict that stands for a tensor in it
SEPARATOR = "/"
ARCHIVE = b"PK"  # what files of torch.save begin with


class DamagedError(ValueError):
    """A checkpoint is not what was written; `why` says how that shows."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"Checkpoint {path} is damaged: {why}.")
        self.path, self.why = path, why


class NewerSchemaError(ValueError):
    """A checkpoint was written by a later decm."""


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


def seal(content: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """`content` with the schema's version, `metadata`, and the checksum over it all."""
    whole = {**content, VERSION: SCHEMA, **metadata}
    whole.pop(CHECKSUM, None)
    return {**whole, CHECKSUM: digest(whole)}


def check_seal(content: Any, path: Path) -> None:
    """Raise DamagedError unless `content` is what was sealed, and NewerSchemaError if it is not ours to read."""
    if not isinstance(content, dict):
        raise DamagedError(path, f"it holds a {type(content).__name__}, expected a dictionary")
    if CHECKSUM not in content:
        raise DamagedError(path, "its checksum is missing, or decm did not write it")
    if not isinstance(content.get(VERSION), int) or content[VERSION] > SCHEMA:
        raise NewerSchemaError(
            f"Checkpoint {path} has schema version {content.get(VERSION)}; this decm reads up to {SCHEMA}. Use the "
            f"decm that wrote it ({content.get('code_version', 'unknown')}) or a later one."
        )
    try:
        found = digest({key: value for key, value in content.items() if key != CHECKSUM})
    except ValueError as error:
        raise DamagedError(path, str(error)) from error
    if found != content[CHECKSUM]:
        raise DamagedError(path, f"its checksum is {found[:12]}..., expected {str(content[CHECKSUM])[:12]}...")


def print_once(line: str) -> None:
    """Say something once, however many ranks there are."""
    if is_first():
        print(line, flush=True)


def load_plain(path: Path) -> Any:
    """What torch.save wrote, its tensors still in the file (mapped), without a pickle being executed.

    Raises DamagedError for anything else.
    """
    with path.open("rb") as file:
        is_archive = file.read(len(ARCHIVE)) == ARCHIVE
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except Exception as error:  # whatever the unpickler says of bytes that it cannot read
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = str(error).split(". ")[0].splitlines()[0] if str(error) else "it ends too early"
        if foreign:
            why = f"it holds {foreign[1]}, neither a tensor nor a plain container, which was not executed"
        raise DamagedError(path, f"{why} ({type(error).__name__})") from error


def num_bytes(tensors: dict[str, Tensor]) -> int:
    """Bytes of all tensors; of sharded ones, over all ranks."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def write_synced(content: dict[str, Any], path: Path) -> None:
    """torch.save, and onto the disk."""
    with path.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
