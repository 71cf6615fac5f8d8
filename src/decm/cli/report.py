"""`decm report`: the page of a run, or of several beside each other."""

from omegaconf import DictConfig

from decm.cli.report_page import report_runs


def task(cfg: DictConfig) -> None:
    """Draw report.html of the run `path`, or compare `runs` in the file `out`."""
    if (cfg.path is None) == (not cfg.runs):
        raise ValueError("Found path and runs both set or both unset; expected path=<run folder> or runs='[A,B]'.")
    if cfg.runs and len(cfg.runs) < 2:
        raise ValueError(f"runs={list(cfg.runs)}; expected two runs or more. For one, path=<run folder>.")
    if cfg.path is not None and cfg.out is not None:
        raise ValueError(f"out={cfg.out} has no effect with path: the page is written into the run folder.")
    print(report_runs([cfg.path] if cfg.path is not None else list(cfg.runs), cfg.out))
