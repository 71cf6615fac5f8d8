"""`decm train`: one experiment, or one job of a sweep."""

from omegaconf import DictConfig

from decm.checkpoints.first_process import is_first
from decm.experiment.budget import apply_budget
from decm.experiment.checks import check_settings
from decm.experiment.dry_run import describe
from decm.experiment.resume import run_to_continue
from decm.experiment.run import run_in
from decm.runs.streams import ignore_closed_pipes
from decm.settings.composition import add_contents, plain
from decm.sweeps.job import (
    end_with_parent,
    finished_metric,
    job_folder,
    run_in_subprocess,
    save_overrides,
    wants_processes,
)
from decm.training.callbacks.reliability.preemption import PreemptedError


def task(cfg: DictConfig) -> float | None:
    """Run an experiment; returns the student's metric at its fewest steps, which sweepers minimize."""
    ignore_closed_pipes()
    if not is_first():
        end_with_parent()
    check_settings(cfg)
    apply_budget(cfg)  # before the settings are plain: schedules follow max_steps
    if cfg.dry_run:
        print("\n".join(describe(cfg)), flush=True)
        return None
    add_contents(cfg)
    fixed = job_folder()
    try:
        if fixed is None:
            return run_in(cfg, run_to_continue(cfg) if is_first() else None)
        done = finished_metric(fixed, plain(cfg))
        if done is not None:
            return done
        save_overrides(fixed)
        if wants_processes(cfg):
            return run_in_subprocess(fixed)
        return run_in(cfg, fixed, f"{cfg.name}/{fixed.parent.name}")
    except PreemptedError as stop:
        stop.requeue()
        raise
