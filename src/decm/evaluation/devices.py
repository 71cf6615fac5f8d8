"""Which device a setting means, and which of several processes this one is."""

import os

import torch
from torch import distributed as dist


def pick_device(name: str) -> str:
    """The device that `auto`, `cpu`, `cuda`, `gpu` or `mps` means: CUDA, then MPS, then the CPU, as far as present.

    Where several processes share a machine, each has the GPU of its local rank.
    """
    if name in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', os.environ.get('SLURM_LOCALID', 0))}"
    if name in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "mps"
    if name in ("auto", "cpu"):
        return "cpu"
    raise ValueError(f"device {name!r} is not at hand on this machine; choose auto or cpu.")


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
