"""What a checkpoint may hold, and its checksum: tensors and plain containers, canonically."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PLAIN = (type(None), bool, int, float, str, bytes)
CONTAINERS = {dict: b"D", list: b"L", tuple: b"U"}


def digest(node: Any) -> str:
    """sha256 of nested containers: of tensors dtype, shape and bytes, of the rest type and value, in their order.

    Raises ValueError, with the path to it, for anything but tensors and plain containers.
    """
    sha = hashlib.sha256()
    _feed(sha, node, "")
    return sha.hexdigest()


def _feed(sha: Any, node: Any, path: str) -> None:
    if isinstance(node, Tensor):
        sha.update(f"T{node.dtype}{tuple(node.shape)}".encode())
        flat = node.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            sha.update(flat.view(torch.uint8).numpy())
        return
    kind = next((kind for kind in CONTAINERS if isinstance(node, kind)), None)
    if kind is not None:
        sha.update(CONTAINERS[kind] + f"{len(node)};".encode())
        for key, value in node.items() if kind is dict else enumerate(node):
            if kind is dict:
                _feed(sha, key, f"{path}/{key}")
            _feed(sha, value, f"{path}/{key}")
    elif type(node) in PLAIN:
        text = node if isinstance(node, bytes) else repr(node).encode()
        sha.update(f"{type(node).__name__}{len(text)}:".encode() + text)
    else:
        raise ValueError(f"{path} is of type {type(node).__name__}; a checkpoint holds tensors and plain containers")


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_digest(weights: dict[str, Tensor]) -> str:
    """sha256 of weights by name, whatever their order."""
    return digest({name: weights[name] for name in sorted(weights)})
