"""One task of the command line: what it raises becomes one sentence and an exit code."""

import os
import re
import select
import sys
import traceback
from typing import Any

from decm.checkpoints.first_process import is_first
from decm.runs.exits import CONFIG_ERROR, FAILED, INTERRUPTED, PREEMPTED, READER_GONE, JobError, stopped


def fail(message: str, code: int) -> None:
    """Print one clear sentence and leave."""
    print(f"decm: {message}", file=sys.stderr)
    raise SystemExit(code)


def in_plain_words(message: str) -> str:
    """A message of Hydra's or OmegaConf's, where theirs is of their own types alone, in words that help."""
    no_list = r"Invalid value assigned: \w+ is not a ListConfig, list or tuple\."
    message = re.sub(no_list, "Expected a list in brackets, as in [1].", message)
    if "full_key: experiment\n" in message:
        message += "\nThe first line of an experiment's file is `# @package _global_`."
    return message


def run_task(task: Any, cfg: Any, in_sweep: bool = False) -> Any:
    """task(cfg), where a user's mistake becomes one sentence and exit code 2; with debug=true the trace is shown.

    Of several jobs it is an exception with these two, so that the other jobs are done.
    """
    from decm.settings.constructors import add_types
    from decm.settings.files import check_files
    from decm.settings.limits import check_limits

    try:
        check_limits(cfg)  # first: types of constructors take torch's import
        if "trainer" in cfg and not cfg.dry_run:  # a training
            check_files(cfg)
        add_types(cfg)
        return task(cfg)
    except KeyboardInterrupt:
        fail(stopped(), INTERRUPTED)
    except JobError:
        raise
    except Exception as error:
        if isinstance(error, BrokenPipeError):
            leave_reader()
        cause = error
        while type(cause).__name__ == "InstantiationException" and isinstance(cause.__cause__, Exception):
            cause = cause.__cause__
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        mistakes = (ValueError, OSError, HydraException, OmegaConfBaseException)
        from_trainer = type(cause).__name__ == "MisconfigurationException"  # Lightning's, not imported for its name
        code = getattr(cause, "exit_code", None)  # of what happens to a run, as against a mistake in its settings
        known = code or from_trainer or isinstance(cause, mistakes)
        if not known and not in_sweep:
            save_failure(f"{type(cause).__name__}: {cause}", FAILED)
            raise
        if cfg.get("debug") or not known:
            traceback.print_exc()
        hint = "" if cfg.get("debug") or code else " (debug=true shows the trace)"
        message = f"{in_plain_words(str(cause))}{hint}" if known else f"{type(cause).__name__}: {cause}"
        code = code or (CONFIG_ERROR if known else FAILED)
        if code != PREEMPTED:
            save_failure(message, code)
            if in_sweep:
                raise JobError(message, code) from None
        quiet = code == PREEMPTED and not is_first()  # the first process would be ended where another one fails
        fail(message, 0 if quiet else code)


def save_failure(message: str, code: int) -> None:
    """Keep with what a job of a sweep failed, where this process does one."""
    job = sys.modules.get("decm.sweeps.job")  # only with it are there sweeps
    if job is not None:
        job.save_failure(message, code)


def leave_reader() -> None:
    """Leave quietly if nobody reads any more what is printed, as in `decm doctor | head -1`."""
    try:
        closed = select.poll()
        closed.register(sys.stdout.fileno(), 0)
        if not closed.poll(0):
            return
    except (ValueError, OSError):  # not a file of the system's
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is flushed at the exit goes there
    raise SystemExit(READER_GONE)
