"""The command line in this process, and the smallest run of it."""

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from decm.cli.main import main
from forked import Answer, decm_beside, environment

ROOT = Path(__file__).parents[1]
TINY = [
    "experiment=smoke",
    "max_steps=6",
    "batch_size=16",
    "network.hidden_size=24",
    "network.depth=1",
    "trainer=cpu",
    "trainer.checkpoint_every=2",
    "trainer.log_every=1",
    "logger=csv",
    "evaluation.num_samples=60",
    "evaluation.nfe=[1,2]",
    "evaluation.every=0",
    "evaluation.preview_every=0",
    "report=false",
]
RING = ["experiment=decm_2d", "network.hidden_size=16", "network.depth=1", "evaluation.protocol.num_map_points=64"]
NO_TEACHER = ["teacher=none", "method=fm"]


def forget_hydra():
    """A command begins as in a process of its own: Hydra keeps the last configuration of this one."""
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None


def decm(*arguments):
    """`decm <arguments>` in this process."""
    forget_hydra()
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["decm", *map(str, arguments)]),
        mock.patch.dict(os.environ),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
        finally:
            forget_hydra()
    return Answer(code, out.getvalue(), err.getvalue())


def train(runs, *overrides, settings=TINY):
    """`decm train` of the tiny settings in the folder `runs`."""
    return decm("train", *settings, f"runs={runs}", *overrides)


def command(*arguments, before=""):
    """The argument list that runs `decm` in a process of its own, after the statements `before`."""
    if not before:
        return [sys.executable, "-m", "decm", *map(str, arguments)]
    code = f"{before}\nfrom decm.cli.main import main; import sys; sys.argv[0] = 'decm'; main()"
    return [sys.executable, "-c", code, *map(str, arguments)]


def in_a_process(*arguments, before="", **extra):
    """`decm <arguments>` in a process of its own; it starts anew where statements come `before`."""
    if not before:
        return decm_beside(*arguments, **extra).answer()
    done = subprocess.run(
        command(*arguments, before=before), env=environment(**extra), capture_output=True, text=True, timeout=240
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def only(folder):
    """The one entry of a folder that is not hidden."""
    (found,) = [path for path in Path(folder).iterdir() if not path.name.startswith(".")]
    return found


def results(folder):
    return json.loads((folder / "results.json").read_text())


def metrics(folder, leave_out=("speed/samples_per_s",)):
    """{step: {name: text}} of metrics.csv, as written."""
    text = (folder / "metrics.csv").read_text()  # at once: a line that is being written would be read in two
    rows = list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline="")))
    return {int(row.pop("step")): {k: v for k, v in row.items() if v and k not in leave_out} for row in rows}
