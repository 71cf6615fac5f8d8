"""Runs that are killed and go on: start, kill, compare bitwise."""

import os
import signal
import time
from pathlib import Path

import torch

from commands import metrics, only, results
from decm.checkpoints.files import read_file
from forked import decm_beside

LAST = "checkpoints/last.ckpt"


def checkpoint(folder):
    return read_file(folder / LAST)


def assert_same(a, b, path=""):
    """Equal bitwise, all the way down."""
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for k, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_same(left, right, f"{path}/{k}")
    else:
        assert a == b, path


def assert_same_run(folder, whole):
    """Losses, distances, weights, averages, optimizer and its schedule."""
    assert metrics(folder) == metrics(whole)
    ours, theirs = checkpoint(folder), checkpoint(whole)
    assert ours["global_step"] == theirs["global_step"] > 0
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "forward_equivalents"):
        assert_same(ours[part], theirs[part], part)
    for key in ours["callbacks"]:
        if key != "Speed":
            assert_same(ours["callbacks"][key], theirs["callbacks"][key], key)
    if "student" in results(whole):
        for key in ("student", "teacher", "accuracy", "forward_equivalents"):
            assert results(folder)[key] == results(whole)[key]


def last_step(folder):
    """The last step in metrics.csv; -1 where there is none yet."""
    try:
        return max(metrics(folder), default=-1)
    except (FileNotFoundError, KeyError, ValueError):
        return -1


def killed(arguments, runs, experiment, moment, before="", **extra):
    """Start `decm train`, kill all its processes (SIGKILL) once `moment(folder)`, and give the run's folder back."""
    words = ["train", *arguments, f"runs={runs}", "resume=auto"]
    process = decm_beside(*words, before=before, own_group=True, **extra)
    try:
        limit = time.monotonic() + 180
        while time.monotonic() < limit and process.poll() is None:
            folders = list((runs / experiment).glob("2*"))
            if folders and moment(folders[0]):
                break
            time.sleep(0.002)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL, process.said()
    return only(runs / experiment)


def wait_for(condition, seconds=120):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not come"
        time.sleep(0.02)


def processes(words):
    """{pid: environment} of the processes whose command line holds all the words."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().decode()
            facts = dict(v.split("=", 1) for v in (folder / "environ").read_bytes().decode().split("\0") if "=" in v)
        except OSError:
            continue
        if all(str(word) in line for word in words):
            found[int(folder.name)] = facts
    return found
