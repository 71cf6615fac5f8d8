"""How far a long action is, and how long it still takes: a bar on a terminal, now and then a line elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_EVERY = 10.0  # seconds


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of samples that were done since it was last called."""
    if sys.stdout.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns) as bar:
            task = bar.add_task(what, total=total)
            yield lambda samples: bar.advance(task, samples)
        return
    done, began, printed = 0, time.monotonic(), time.monotonic()

    def advance(samples: int) -> None:
        nonlocal done, printed
        done, now = done + samples, time.monotonic()
        if now - printed >= LINE_EVERY:
            printed = now
            print(f"{what}  {done}/{total}  {(total - done) * (now - began) / done:.0f} s left", flush=True)

    yield advance
