"""How Lightning reads and writes checkpoints. Not in checkpoints/, where a model is read without Lightning."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO

from decm.checkpoints.durable import remove
from decm.checkpoints.files import read_file, write_file


class CheckpointFiles(CheckpointIO):
    """What Lightning's strategies write and read checkpoints with."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write_file(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_file(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        remove(Path(path))
