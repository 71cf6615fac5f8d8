"""A rank that hangs: the others would wait for it for ever; a thread of each names it and ends the run."""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from decm.checkpoints.durable import write_whole

HEARTBEATS = "heartbeats"
HUNG = 1  # exit code


class Watchdog(Callback):
    """A thread of each rank notes in `folder/heartbeats/` how often that waited for the others (at each micro-batch).

    A rank that does not come there again within `seconds` says which ranks are behind, and ends its process; launchers
    end the others. An evaluation, which takes long, says that it goes on by `alive`. Only with several ranks. It comes
    after the callbacks that may hang when a micro-batch starts.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        if seconds <= 0:
            raise ValueError(f"guard.hang_timeout={seconds}; expected a number of seconds above 0.")
        self.folder, self.seconds = folder / HEARTBEATS, seconds
        self.waits, self.step, self.rank, self.world = 0, 0, 0, 1
        self._last, self._noted = time.monotonic(), 0
        self._done = threading.Event()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size == 1:
            return
        self.rank, self.world = trainer.global_rank, trainer.world_size
        self.folder.mkdir(parents=True, exist_ok=True)
        self.waits, self._last = 0, time.monotonic()
        self._note()
        trainer.strategy.barrier()  # no heartbeat of an earlier process is read from here on
        self._done.clear()
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """This rank comes to wait for the others: in the step itself they meet."""
        if trainer.world_size > 1:
            self.step = trainer.global_step
            self.alive()

    def alive(self) -> None:
        """This rank goes on; called equally often on all of them. The thread writes it down."""
        self.waits, self._last = self.waits + 1, time.monotonic()

    def _note(self) -> None:
        self._noted = self.waits
        heartbeat = {"waits": self.waits, "step": self.step, "pid": os.getpid(), "host": socket.gethostname()}
        with contextlib.suppress(OSError):  # a full disk is reported where it costs something: at a checkpoint
            text = json.dumps(heartbeat)
            write_whole(
                self.folder / f"rank_{self.rank}.json",
                lambda part: part.write_text(text, encoding="utf-8"),
                durable=False,
            )

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self.seconds / 4)):
            if self._noted != self.waits:
                self._note()
            if time.monotonic() - self._last > self.seconds:
                try:
                    print(f"decm: {self.verdict()}", file=sys.stderr, flush=True)
                finally:
                    os._exit(HUNG)

    def verdict(self) -> str:
        """Who is behind, in a sentence."""
        unknown: dict[str, Any] = {"waits": -1, "step": "unknown", "pid": "unknown", "host": "unknown"}
        paths = {r: self.folder / f"rank_{r}.json" for r in range(self.world)}
        ranks = {
            r: json.loads(path.read_text(encoding="utf-8")) if path.is_file() else unknown for r, path in paths.items()
        }
        most = max(beat["waits"] for beat in ranks.values())
        behind = {r: beat for r, beat in ranks.items() if beat["waits"] < most}
        names = ", ".join(f"rank {r} (step {f['step']}, pid {f['pid']} on {f['host']})" for r, f in behind.items())
        where = names or "no rank: all came to the same step and wait in it"
        return (
            f"No rank went on for {self.seconds:g} s. Behind the others: {where}. What is saved stays; look at that "
            "process or machine, then continue with resume=auto. guard.hang_timeout sets the time."
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._done.set()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._done.set()
