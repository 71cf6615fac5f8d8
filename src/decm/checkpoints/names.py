"""What the files of a run's checkpoints are called."""

import re
from pathlib import Path

CHECKPOINTS = "checkpoints"  # of a run folder
LAST, BEST, DAMAGED = "last.ckpt", "best.ckpt", ".damaged"
LAST_OF_RUN = Path(CHECKPOINTS) / LAST


def name_of(step: int) -> str:
    """The name of the checkpoint of an optimizer step."""
    return f"step_{step:08d}.ckpt"


def step_of(path: Path) -> int | None:
    """The inverse of `name_of`; None for other names."""
    found = re.fullmatch(r"step_(\d{8,})\.ckpt", path.name)
    return int(found[1]) if found else None
