"""Pre-emption: a signal to any rank, or a stop file, ends the run after its step, on all ranks, with a checkpoint."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from decm.training.callbacks.base import DistillationCallback, distillation
from decm.training.callbacks.reliability.guard import say
from decm.training.module import DistillationModule

# USR2: submitit's, before a job's time is up; HUP: the terminal's connection is gone.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGHUP)
STOP = "STOP"  # a file of this name in the run folder


class PreemptedError(RuntimeError):
    """The run was asked to stop and has saved; it is to be started again.

    `requeue` calls the launcher's signal handler (submitit's), which puts the job back into the queue.
    """

    exit_code = 75  # sysexits.h's EX_TEMPFAIL

    def __init__(self, step: int | None, asked: str | None, requeue: Callable[[], None]) -> None:
        where = "after the training" if step is None else f"at step {step}"
        super().__init__(f"stopped {where}, asked by {asked or 'another rank'}; continue with resume=auto")
        self.requeue = requeue


@contextlib.contextmanager
def stopping_at_once() -> Iterator[None]:
    """After the training, where nothing has to be saved first: a signal raises PreemptedError, but for Ctrl-C.

    Outside of the main thread it does nothing.
    """
    before: dict[int, Any] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        raise PreemptedError(None, signal.Signals(number).name, requeue_by(number, before))

    if threading.current_thread() is threading.main_thread():
        numbers = [n for n in SIGNALS if n != signal.SIGINT and signal.getsignal(n) is not signal.SIG_IGN]
        before.update({number: signal.signal(number, stop) for number in numbers})
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def requeue_by(number: int | None, handlers: dict[int, Any]) -> Callable[[], None]:
    """What puts the job back into the queue: the handler of a user signal that was there before (submitit's)."""
    handler = handlers.get(number) if number in (signal.SIGUSR1, signal.SIGUSR2) else None
    return (lambda: handler(number, None)) if callable(handler) else lambda: None


class Preemption(DistillationCallback):
    """Sets `trainer.should_stop` at the end of the step in which all ranks learn that one of them was asked to stop.

    Ranks learn it from the reduction of the losses. A second Ctrl-C interrupts at once. Outside of the main thread
    there is the stop file alone.
    """

    def __init__(self, folder: Path) -> None:
        self.stop_file = folder / STOP
        self.asked: str | None = None  # by what, on this rank
        self.stopped = False
        self._before: dict[int, Any] = {}
        self._earlier: dict[int, Any] = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.asked == "SIGINT":
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if threading.current_thread() is not threading.main_thread():  # Python lets the main thread alone catch them
            say(trainer, f"Not in the main thread: no signal stops this run, but the file {self.stop_file} does.")
            return
        self._before = {
            number: signal.signal(number, self._ask)
            for number in SIGNALS
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN  # nohup's wish holds
        }
        self._earlier = dict(self._before)

    def error(self, step: int) -> PreemptedError:
        """What the stopped run raises. A launcher that catches the user signals (submitit) then gets this one."""
        return PreemptedError(step, self.asked, requeue_by(getattr(signal, self.asked or "", None), self._earlier))

    def restore(self) -> None:
        """Restore the signal handlers that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.is_global_zero and self.stop_file.exists():
            self.asked = self.asked or f"the file {self.stop_file}"
        if self.asked is not None:
            distillation(pl_module).request_stop()

    def on_optimizer_step(self, trainer: Trainer, module: DistillationModule) -> None:
        if module.step.stop_agreed:
            self.stopped = trainer.should_stop = True
            say(trainer, f"Stopping after step {trainer.global_step}, asked by {self.asked or 'another rank'}.")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self.stopped:
            self.stop_file.unlink(missing_ok=True)
        self.restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.restore()
