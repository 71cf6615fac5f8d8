"""Processes that are forked from one that has imported everything: a start takes milliseconds instead of seconds.

They are processes of their own (a pid, an environment, signals, an exit code); only their command line in /proc is the
server's.
"""

import gc
import multiprocessing
import os
import runpy
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

TESTS = Path(__file__).parent
PRELOAD = [
    "forked",
    "decm.cli.train",
    "decm.cli.evaluate",
    "lightning.pytorch",
    "torchmetrics",
    "timm.layers",
    "training.resume_rank",
    "training.save_loop",
]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(PRELOAD)


def environment(**extra):
    """What a child needs of the environment, beside this one's."""
    paths = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **extra}


@dataclass(frozen=True)
class Answer:
    """What a command left on the terminal."""

    code: int
    out: str
    err: str

    @property
    def said(self):
        return self.out + self.err


def start(target, *arguments):
    """A process that calls `target`, a function of a module."""
    with mock.patch.dict(os.environ, environment()):  # the server's, if this starts it: it ignores sys.path
        process = SERVER.Process(target=target, args=arguments)
        process.start()
    return process


def _begin(target, arguments, variables, outputs, own_group):
    """In the child: its environment, its output, its process group; then the program."""
    gc.freeze()  # what the server imported is never garbage
    if own_group:
        os.setsid()
    os.environ.clear()
    os.environ.update(variables)
    sys.path[:] = [*variables["PYTHONPATH"].split(os.pathsep), *sys.path]
    for stream, path in zip((sys.stdout, sys.stderr), outputs, strict=True):
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(file, stream.fileno())
        os.close(file)
        stream.reconfigure(line_buffering=True)
    target(*map(str, arguments))


def _decm(before, *arguments):
    from decm.cli.main import main

    exec(before, {})
    sys.argv = [str(Path(sys.executable).with_name("decm")), *arguments]
    main()


def _script(path, *arguments):
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")


class Forked:
    """A program that runs beside this one; what it says goes to files."""

    def __init__(self, target, *arguments, own_group=False, **extra):
        self._folder = tempfile.TemporaryDirectory()
        self.outputs = [Path(self._folder.name, name) for name in ("out", "err")]
        for path in self.outputs:
            path.touch()
        self._process = start(_begin, target, arguments, environment(**extra), list(map(str, self.outputs)), own_group)
        self.pid = self._process.pid

    def poll(self):
        """Its exit code, the negative signal where one ended it, None while it runs."""
        return self._process.exitcode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self._process.kill()

    def wait(self, seconds=240):
        """Its exit code. Raises TimeoutError, and kills it, if it does not end."""
        self._process.join(seconds)
        if self.poll() is None:
            self.kill()
            raise TimeoutError(f"process {self.pid} did not end within {seconds} s: {self.said()}")
        return self.poll()

    def said(self):
        return "".join(path.read_text() for path in self.outputs)

    def answer(self, seconds=240):
        """What it ended with and said."""
        code = self.wait(seconds)
        return Answer(code, *(path.read_text() for path in self.outputs))


def decm_beside(*arguments, before="", **options):
    """`decm <arguments>` beside this process, after the statements `before`."""
    return Forked(_decm, before, *arguments, **options)


def script_beside(path, *arguments, **options):
    """`python path <arguments>` beside this process."""
    return Forked(_script, path, *arguments, **options)
