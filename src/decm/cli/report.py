"""`decm report`: what a folder has to say, by what it is."""

from pathlib import Path

from omegaconf import DictConfig

from decm.cli.sweep_report import SWEEP, is_sweep, write_report


def task(cfg: DictConfig) -> None:
    """Write and print the report of a folder. Raises ValueError if it is none that has one."""
    folder = Path(cfg.path)
    if is_sweep(folder):
        print(write_report(folder, cfg.nfe), flush=True)
    else:
        found = f"no {SWEEP} in it" if folder.is_dir() else "no such folder"
        raise ValueError(f"path={folder}: {found}; expected the folder of a sweep, runs/<experiment>/multirun/<time>.")
