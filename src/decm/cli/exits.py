"""How the command line ends: its exit codes, and what a job of a sweep raises instead of ending the whole sweep."""

FAILED, CONFIG_ERROR, PREEMPTED, INTERRUPTED = 1, 2, 75, 130  # 75: sysexits.h's EX_TEMPFAIL
READER_GONE = 141  # 128 + SIGPIPE, as a shell says it


class JobError(Exception):
    """A job of a sweep failed: one sentence and the exit code of the sweep. It travels between processes."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message, code)
        self.message, self.code = message, code
