"""How the command line ends: its exit codes, and what a job of a sweep raises instead of ending the whole sweep."""

import os

FAILED, CONFIG_ERROR, PREEMPTED, INTERRUPTED = 1, 2, 75, 130  # 75: sysexits.h's EX_TEMPFAIL
READER_GONE = 141  # 128 + SIGPIPE, as a shell says it


def stopped() -> str:
    """What is said after Ctrl-C, by verb: only a training goes on where it was."""
    train = os.environ.get("DECM_VERB") == "train"
    how = "continue with resume=auto (make train RESUME=1)" if train else "start the same command again"
    return f"interrupted. What is saved stays; {how}."


class JobError(Exception):
    """A job of a sweep failed: one sentence and the exit code of the sweep. It travels between processes."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message, code)
        self.message, self.code = message, code
