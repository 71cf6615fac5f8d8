"""metrics.csv in the run folder: one line a logged step; a resumed run goes on in the same file."""

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only


class MetricsCSV(Logger):
    """Writes `folder/metrics.csv`, whose columns grow as metrics appear; figures of one step share a line."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.rows: dict[int, dict[str, Any]] = {}
        if self.path.is_file():
            with self.path.open(newline="") as file:
                for row in csv.DictReader(file):
                    self.rows[int(row["step"])] = {key: value for key, value in row.items() if value != ""}

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The configuration stands in config.yaml."""

    def forget_after(self, step: int) -> None:
        """Drop lines beyond `step`: a run that was killed logged them and will log them again."""
        self.rows = {at: row for at, row in self.rows.items() if at <= step}

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        at = step or 0
        self.rows.setdefault(at, {"step": at}).update({k: v for k, v in metrics.items() if k != "epoch"})
        if len(self.rows) % 20 == 0:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        columns = list(dict.fromkeys(key for row in self.rows.values() for key in row))
        part = self.path.with_suffix(".part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns or ["step"])
            writer.writeheader()
            writer.writerows(row for _, row in sorted(self.rows.items()))
        part.replace(self.path)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
