"""metrics.csv in the run folder: one line a logged step; a resumed run goes on in the same file."""

import csv
import heapq
import io
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from decm.checkpoints.durable import write_whole

KEPT = 20  # lines in memory before they are written
Row = dict[str, Any]


class MetricsCSV(Logger):
    """Writes `folder/metrics.csv`, whose columns grow as metrics appear; figures of one step share a line.

    Lines are appended and not kept, and nothing that is in the file is ever overwritten in place, so that whoever reads
    it meanwhile sees whole lines, and at most one that is cut off. The file is written anew, under its name at once,
    where a column is new, or figures come for a step that is in it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.columns: list[str] = []
        self.rows: dict[int, Row] = {}  # what is not in the file yet
        self._last = sys.maxsize  # the last step of the file; until it was read, beyond any

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The configuration stands in config.yaml."""

    @rank_zero_only
    def forget_after(self, step: int) -> None:
        """Drop lines beyond `step`: a run that was killed logged them and will log them again."""
        self.save()
        self._write_anew(row for row in self._stored() if row["step"] <= step)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        at = step or 0
        self.rows.setdefault(at, {"step": at}).update({k: v for k, v in metrics.items() if k != "epoch"})
        if len(self.rows) > KEPT:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        rows = [row for _, row in sorted(self.rows.items())]
        columns = list(dict.fromkeys([*self.columns, "step", *(key for row in rows for key in row)]))
        if columns != self.columns or (rows and rows[0]["step"] <= self._last) or not self.path.is_file():
            self.columns = columns
            self._write_anew(heapq.merge(self._stored(), rows, key=lambda row: row["step"]))
        else:
            with self.path.open("ab") as file:
                self._append(file, rows)
        self.rows = {}

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def _stored(self) -> Iterator[Row]:
        """The lines of the file, one at a time; one that was cut off is left out."""
        if not self.path.is_file():
            return
        with self.path.open(newline="", encoding="utf-8-sig") as file:  # a spreadsheet may have saved it
            reader = csv.DictReader(line for line in file if line.endswith("\n"))
            columns = list(reader.fieldnames or ["step"])
            if "step" not in columns:
                raise ValueError(
                    f"{self.path} has no column `step`; found {', '.join(columns)[:80]}. Another program has changed "
                    "it: rename it, and the run goes on with a new one."
                )
            self.columns = list(dict.fromkeys([*columns, *self.columns]))
            for row in reader:
                if row["step"] and None not in row and None not in row.values():
                    yield {"step": int(row.pop("step")), **{key: value for key, value in row.items() if value != ""}}

    @rank_zero_only
    def _write_anew(self, rows: Iterable[Row]) -> None:
        """The whole file, line by line, whole or not at all."""
        lines = iter(rows)
        first = list(islice(lines, 1))  # read before the heading is written: it tells the columns of the file

        def write(part: Path) -> None:
            with part.open("wb") as file:
                file.write(self._text([dict(zip(self.columns, self.columns, strict=True))]))
                self._last = -1
                self._append(file, chain(first, lines))

        write_whole(self.path, write)

    def _append(self, file: Any, rows: Iterable[Row]) -> None:
        """Write lines, those of one step as one."""
        for step, group in groupby(rows, key=lambda row: row["step"]):
            file.write(self._text([{key: value for row in group for key, value in row.items()}]))
            self._last = step

    def _text(self, rows: Iterable[Row]) -> bytes:
        buffer = io.StringIO(newline="")
        csv.DictWriter(buffer, self.columns).writerows(rows)
        return buffer.getvalue().encode()
