"""Which device a setting means, and which of several processes this one is."""

import os
from collections.abc import Callable

import torch
from torch import distributed as dist

HAVE: dict[str, Callable[[], bool]] = {
    "cuda": torch.cuda.is_available,
    "mps": torch.backends.mps.is_available,
    "cpu": lambda: True,
}


def pick_device(name: str) -> str:
    """The device that a name means; `auto`: CUDA, then MPS, then the CPU; `gpu`: the first two.

    Where several processes share a machine, `cuda` without a number is the GPU of the local rank. Raises ValueError for
    a device that is not there.
    """
    present = [kind for kind, there in HAVE.items() if there()]
    chosen = present[0] if name == "auto" or (name == "gpu" and present[0] != "cpu") else name
    if chosen.split(":")[0] not in present:
        raise ValueError(f"device={name!r} is not at hand; expected auto, {', '.join(present)}.")
    return f"cuda:{os.environ.get('LOCAL_RANK', os.environ.get('SLURM_LOCALID', 0))}" if chosen == "cuda" else chosen


def compute_device() -> str:
    """CUDA's of the local rank, else the CPU: for networks that use operations which MPS lacks."""
    return pick_device("cuda") if torch.cuda.is_available() else "cpu"


def rank_and_world() -> tuple[int, int]:
    """(rank, number of processes) of torch.distributed, or of torchrun where that was not begun; else (0, 1)."""
    if dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    if "RANK" in os.environ:  # a launcher that sets WORLD_SIZE alone has begun torch.distributed in its processes
        return int(os.environ["RANK"]), int(os.environ.get("WORLD_SIZE", 1))
    return 0, 1
