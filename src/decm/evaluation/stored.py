"""Samples of a long evaluation: generated once, a file a batch, by any number of processes; and ADM's npz of them."""

import contextlib
import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor

from decm.checkpoints.durable import save_npz, write_whole
from decm.evaluation.devices import rank_and_world
from decm.evaluation.evaluator import Evaluator
from decm.evaluation.generate import Rows, balanced_labels, generate, in_batches, itself, joined
from decm.evaluation.progress import progress
from decm.flow.flow_map import FlowMap

CACHE = "samples_cache"
IN_USE = ".in_use"  # in the folder of one set of samples
WAIT = 0.5  # seconds between looks at what the other processes have made


@dataclass
class StoredEvaluator(Evaluator):
    """An evaluator that keeps each batch of samples as a file below `folder`, so that a second start goes on.

    Process `rank` of `world_size` makes every world_size-th batch and what is judged of it; process 0 waits for the
    others' and has them all, so that all must see the folder. Batches are the same for any number of processes. As a
    network may be sharded over them, all call it equally often: what is missing of `world_size` batches in a row is
    made by all, and a process that lacks a batch at the end repeats the last one. `identity` is what else the samples
    depend on.
    """

    folder: Path = Path("samples_cache")
    identity: dict[str, Any] = field(default_factory=dict)
    rank: int = 0
    world_size: int = 1
    held: dict[Path, TextIO] = field(default_factory=dict)  # locks of the folders that process 0 uses

    def place(self, nfe: int, num_samples: int, trained_on: Collection[str]) -> Path:
        """The folder of the batches of one set of samples."""
        parts = [
            self.identity,
            nfe,
            num_samples,
            self.sampler(nfe, trained_on),
            sorted(trained_on),
            self.seed,
            self.batch_size,
            list(self.shape),
            self.num_classes,
        ]
        return self.folder / hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def _made(
        self, flow_map: FlowMap, nfe: int, num_samples: int, trained_on: Collection[str], judged: bool
    ) -> Rows | None:
        place, sampler = self.place(nfe, num_samples, trained_on), self.sampler(nfe, trained_on)
        place.mkdir(parents=True, exist_ok=True)
        if self.rank == 0:
            self._hold(place)
        labels, batches = balanced_labels(num_samples, self.num_classes), list(in_batches(num_samples, self.batch_size))
        paths = [place / f"{number:06d}.npy" for number in range(len(batches))]
        mine = paths[self.rank :: self.world_size]
        kept = sum(path.is_file() for path in mine)
        if 0 < kept < len(mine):
            print(f"{nfe} steps: {kept} of {len(mine)} batches of process {self.rank} are there already.", flush=True)
        with progress(f"{nfe} steps", num_samples) as advance:
            for first in range(0, len(batches), self.world_size):
                together, own = range(first, min(first + self.world_size, len(batches))), first + self.rank
                made = None
                if not all(paths[k].is_file() for k in together):
                    k = min(own, together[-1])
                    made = generate(
                        flow_map,
                        self.shape,
                        labels=labels[batches[k]],
                        nfe=nfe,
                        sampler=sampler,
                        seed=self.seed,
                        index=batches[k],
                        device=self.device,
                    )
                    if k == own:
                        write_array(paths[k], made.numpy())
                if judged and own in together:
                    self._look(paths[own], made)
                advance(sum(len(batches[k]) for k in together))
        if self.rank:
            return None
        return joined(self._rows_at_last(path, judged) for path in paths)

    def _features_of(self, samples: Path) -> Path:
        """The file of what this judge compares of a batch of samples."""
        judge = hashlib.sha256(self.judge.reference.encode()).hexdigest()[:8]
        return samples.with_suffix(f".{judge}.npz")

    def _look(self, samples: Path, made: Tensor | None) -> None:
        """Write down what is judged of a batch of samples, unless it is there; `made` are those of this start."""
        path = self._features_of(samples)
        if not path.is_file():
            rows = self._judged(torch.from_numpy(np.load(samples)) if made is None else made)
            path.parent.mkdir(parents=True, exist_ok=True)  # another evaluation may just have removed it
            write_whole(path, lambda part: save_npz(part, **{name: value.numpy() for name, value in rows.items()}))

    def _rows_at_last(self, samples: Path, judged: bool) -> Rows:
        """The rows of a batch, once the process that makes them has written them."""
        path = self._features_of(samples) if judged else samples
        while not path.is_file():  # the launcher ends all processes if one fails
            time.sleep(WAIT)
        if not judged:
            return itself(torch.from_numpy(np.load(path)))
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(file[name]) for name in file.files}

    def _hold(self, place: Path) -> None:
        """Show that this evaluation uses a folder, for another one of the same samples that ends before."""
        if place not in self.held:
            self.held[place] = (place / IN_USE).open("w", encoding="utf-8")
            with contextlib.suppress(OSError):  # of a file system without locks
                fcntl.flock(self.held[place], fcntl.LOCK_SH)

    def forget(self) -> None:
        """Remove what this evaluation has kept, except where another one uses it as well."""
        for place, file in self.held.items():
            with file, contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place, ignore_errors=True)
        self.held.clear()
        with contextlib.suppress(OSError):  # it holds the samples of others
            self.folder.rmdir()


def stored(plain: Evaluator, folder: Path, identity: dict[str, Any]) -> StoredEvaluator:
    """The evaluator `plain`, shared by the processes that there are, which keeps what it generates below `folder`."""
    rank, world_size = rank_and_world()
    return StoredEvaluator(
        judge=plain.judge,
        shape=plain.shape,
        num_classes=plain.num_classes,
        seed=plain.seed,
        batch_size=plain.batch_size,
        samplers=plain.samplers,
        device=plain.device,
        folder=folder / CACHE,
        identity=identity,
        rank=rank,
        world_size=world_size,
    )


def forget(evaluator: Evaluator) -> None:
    """Remove what an evaluator has kept, once the scores are written."""
    if isinstance(evaluator, StoredEvaluator):
        evaluator.forget()


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file, whole or not at all, also where another evaluation has just removed its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.save(file, array)

    write_whole(path, write)


def write_pictures(path: Path, samples: Tensor, to_pixels: Callable[[Tensor], Tensor], chunk: int = 64) -> None:
    """ADM's file of samples: `arr_0`, uint8 [N, H, W, 3], whole or not at all; gray pictures are repeated."""
    pictures = torch.cat([to_pixels(part).cpu().expand(-1, 3, -1, -1) for part in samples.split(chunk)])
    arrays = pictures.permute(0, 2, 3, 1).contiguous().numpy()
    write_whole(path, lambda part: save_npz(part, arr_0=arrays))
