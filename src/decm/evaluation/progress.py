"""How far a long action is, and how long it still takes: a bar on a terminal, now and then a line elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

LINE_EVERY = 5.0  # seconds
TEACHER, TRAINING, EVALUATION = "teacher", "training", "evaluation"  # the stages of a run


def lasting(seconds: float) -> str:
    """A time in words: `45 s`, `3 min 20 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class Job:
    """How far a job of several stages is as a whole, and how long it still takes, in a line every few seconds.

    `stages` has the cost of each in its order, all in the same unit. What is left of a stage goes on at the pace of the
    stage, the later ones cost what all so far has cost on average.
    """

    def __init__(self, what: str, stages: Mapping[str, float]) -> None:
        self.what, self._costs = what, dict(stages)
        self._shares: dict[str, float] = {}
        self._begun: dict[str, tuple[float, float]] = {}  # (when, at which share) this process began a stage
        self._printed = time.monotonic()

    def at(self, stage: str, share: float, note: Callable[[], str] = str) -> None:
        """Say that a stage is at this share, 0 to 1; prints a line now and then, and where a stage ends."""
        now = time.monotonic()
        for earlier in list(self._costs)[: list(self._costs).index(stage)] if stage in self._costs else ():
            self._shares[earlier] = 1.0
        self._begun.setdefault(stage, (now, share))
        self._shares[stage] = share
        if share < 1 and now - self._printed < LINE_EVERY:
            return
        self._printed = now
        left = self.left(stage, now)
        whole = f"  job {100 * self.share():.0f}%" if self._costs else ""
        whole += f", {lasting(left)} left" if left is not None else ""
        print(f"{self.what}  {stage} {100 * share:.0f}%{whole}  {note()}".rstrip(), flush=True)

    def share(self) -> float:
        """Of the whole job, 0 to 1."""
        done = sum(cost * self._shares.get(stage, 0.0) for stage, cost in self._costs.items())
        return done / max(sum(self._costs.values()), 1e-9)

    def left(self, stage: str, now: float) -> float | None:
        """Seconds that the job still takes; None as long as nothing is known."""
        done = {name: self._costs.get(name, 0.0) * (self._shares[name] - at) for name, (_, at) in self._begun.items()}
        began = self._begun[stage][0]
        first = min(when for when, _ in self._begun.values())
        if not done[stage]:
            return None
        here = self._costs[stage] * (1 - self._shares[stage])
        later = sum(cost for name, cost in self._costs.items() if name not in self._shares)
        return here * (now - began) / done[stage] + later * (now - first) / sum(done.values())


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of samples that were done since it was last called."""
    if sys.stdout.isatty():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        text = TextColumn("{task.description}", markup=False)  # names may have brackets
        with Progress(text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
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
