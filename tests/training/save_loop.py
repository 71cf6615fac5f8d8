"""What a process of its own does that does nothing but save."""

import resource
from functools import partial
from itertools import count

import torch

from decm.checkpoints.files import write_file
from decm.checkpoints.folder import checkpoints, name_of, prune, step_of
from decm.checkpoints.sharded import write_sharded
from decm.training.checkpoint_io import CheckpointFiles


def save_for_ever(folder):
    """Each checkpoint is of the number in it, and 8 MB."""
    writer = CheckpointFiles()
    first = max((step_of(path) for path in checkpoints(folder)), default=0) + 1
    for step in count(first):
        checkpoint = {"global_step": step, "weights": torch.full((2_000_000,), float(step))}
        writer.save_checkpoint(checkpoint, folder / name_of(step), partial(prune, folder, 2, None))
        checkpoint["weights"].fill_(-1)  # as the steps that follow it do


def save_one(kind, path, limit, said):
    """A checkpoint of 4 MB, while files may grow to `limit` bytes (-1: freely); `said` gets the error or nothing."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    checkpoint = {"global_step": 4, "w": torch.ones(1_000_000)}
    try:
        if kind == "file":
            write_file(checkpoint, path)
        else:
            write_sharded(checkpoint, path, 0, lambda: None)
        said.send("")
    except Exception as error:
        said.send(f"{type(error).__name__}: {error}")
        raise SystemExit(1) from error
