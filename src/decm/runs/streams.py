"""Make stdout and stderr robust: reopen closed ones, escape what the locale cannot encode, ignore a closed pipe."""

import errno
import io
import os
import sys
from typing import Any

NOBODY_READS = (errno.EPIPE, errno.EIO)  # the pipe's reader is gone; the terminal is closed


class PipeTolerantFile(io.FileIO):
    """A file of the operating system that drops what nobody can read any more."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content) or 0
        except OSError as error:
            if error.errno not in NOBODY_READS:
                raise
            return len(content)


def prepare_streams() -> None:
    """Open what is closed (`>&-`), and print letters that the locale lacks by their numbers instead of failing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, it stays open
        elif type(stream) is io.TextIOWrapper:
            stream.reconfigure(errors="backslashreplace")


def ignore_closed_pipes() -> None:
    """Ignore from now on that nobody reads the output any more (`| tee` at Ctrl-C, `| head`, a closed terminal)."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is not io.TextIOWrapper or isinstance(getattr(stream.buffer, "raw", None), PipeTolerantFile):
            continue
        stream.flush()
        file = io.BufferedWriter(PipeTolerantFile(os.dup(stream.fileno()), "w"))
        lasting = io.TextIOWrapper(file, stream.encoding, stream.errors, line_buffering=stream.line_buffering)
        setattr(sys, name, lasting)
