"""How Lightning reads and writes checkpoints. Not in checkpoints/, where a model is read without Lightning."""

import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor

from decm.checkpoints.durable import SaveError, remove
from decm.checkpoints.files import read_file, write_file
from decm.checkpoints.sealed import put_tensors, take_tensors


class CheckpointFiles(CheckpointIO):
    """What Lightning's strategies write and read checkpoints with: the training goes on while a file is written.

    A save copies all it is given to the CPU and returns; a thread seals and writes the file, and then calls what
    `storage_options` is, if anything. The next save waits for it, so that there is one copy. What it raises is raised
    by the next save, or by whoever asks before.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._writing: Future[None] | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Callable[[], None] | None = None
    ) -> None:
        self.wait()
        self._writing = self._thread.submit(_write, copied(checkpoint), Path(path), storage_options)

    def wait(self) -> None:
        """Return when all is written. Raises SaveError if that failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def check(self) -> None:
        """Raise what the last save raised, if it has ended."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def teardown(self) -> None:
        """Let a save end; its error is told, for the run may be ending with one of its own."""
        try:
            self.wait()
        except SaveError as error:
            print(f"decm: {error}", file=sys.stderr, flush=True)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_file(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        remove(Path(path))


def copied(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A copy whose tensors are on the CPU; those of a GPU come by pinned memory, all at once."""
    tensors: dict[str, Tensor] = {}
    rest = deepcopy(take_tensors(checkpoint, tensors))
    pin = torch.cuda.is_available() and any(tensor.is_cuda for tensor in tensors.values())
    copies = {
        key: torch.empty_like(tensor, device="cpu", pin_memory=pin).copy_(tensor.detach(), non_blocking=True)
        for key, tensor in tensors.items()
    }
    if pin:
        torch.cuda.synchronize()
    copy: dict[str, Any] = put_tensors(rest, copies)
    return copy


def _write(checkpoint: dict[str, Any], path: Path, then: Callable[[], None] | None) -> None:
    write_file(checkpoint, path)
    if then is not None:
        then()
