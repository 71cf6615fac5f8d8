"""`decm report`: the page of a run, several runs beside each other, or the table of a sweep."""

from pathlib import Path

from omegaconf import DictConfig

from decm.report.runs import report_runs
from decm.sweeps.table import is_sweep, write_report


def task(cfg: DictConfig) -> None:
    """Report on the run or sweep in `path`, or compare `runs` in the file `out`. Raises ValueError otherwise."""
    if (cfg.path is None) == (not cfg.runs):
        raise ValueError("Found path and runs both set or both unset; expected path=<folder> or runs='[A,B]'.")
    if cfg.runs and len(cfg.runs) < 2:
        raise ValueError(f"runs={list(cfg.runs)}; expected two runs or more. For one, path=<run folder>.")
    if cfg.path is not None and is_sweep(Path(cfg.path)):
        if cfg.out is not None:
            raise ValueError(f"out={cfg.out} has no effect on a sweep: its table is written into its folder.")
        print(write_report(Path(cfg.path), cfg.nfe), flush=True)
        return
    if cfg.nfe is not None:
        raise ValueError(f"nfe={cfg.nfe} has an effect on the table of a sweep alone; leave it out.")
    print(report_runs([cfg.path] if cfg.path is not None else list(cfg.runs), cfg.out))
