"""What stands for SLURM in tests: sbatch, srun, sacct and scontrol for one machine, whose tasks are processes.

It knows job arrays, several tasks a node, and jobs that are put back in line; nothing of queues, nodes or limits.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

COMMANDS = ("sbatch", "srun", "sacct", "scontrol")


def install(folder):
    """Write the commands; the folder to put first on the PATH, in which `sbatch` leaves <job>.json, its options."""
    for name in COMMANDS:
        path = Path(folder, name)
        path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(__file__)} {name} "$@"\n')
        path.chmod(0o755)
    return folder


def here():
    return Path(next(p for p in os.environ["PATH"].split(os.pathsep) if Path(p, "sbatch").is_file()))


def sbatch(script):
    lines = re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", Path(script).read_text(), re.MULTILINE)
    options = {name: shlex.split(value)[0] for name, value in lines}
    number = str(os.getpid())
    Path(here(), f"{number}.json").write_text(json.dumps(options))
    kept = Path(here(), f"{number}.sh")  # submitit moves its own away
    kept.write_text(Path(script).read_text())
    tasks = int(options.get("nodes", 1)) * int(options.get("ntasks-per-node", 1))
    facts = {
        "SLURM_NTASKS": str(tasks),
        "SLURM_NNODES": options.get("nodes", "1"),
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_JOB_NUM_NODES": options.get("nodes", "1"),
        "SLURM_JOB_NAME": options["job-name"],
        "SLURM_NTASKS_PER_NODE": options.get("ntasks-per-node", "1"),
    }
    last = int(options["array"].split("%")[0].split("-")[1]) if "array" in options else None
    for index in range(1 if last is None else last + 1):
        own = {"SLURM_JOB_ID": str(int(number) + index)}
        if last is not None:
            own |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(index)}
        job = number if last is None else f"{number}_{index}"
        subprocess.Popen(
            [sys.executable, __file__, "run", job, str(kept)],
            env={**os.environ, **facts, **own},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    print(f"Submitted batch job {number}")


def run(job, script):
    """A job until it ends without having been put back in line."""
    again, restarts = Path(here(), f"{job}.requeue"), 0
    while True:
        subprocess.run(["bash", script], env={**os.environ, "SLURM_RESTART_COUNT": str(restarts)})
        if not again.exists():
            break
        again.unlink()
        restarts += 1
    Path(here(), f"{job}.done").touch()


def srun(*words):
    words, options = list(words), {}
    while words[0].startswith("--"):
        name = words.pop(0)
        if name != "--unbuffered":
            options[name] = words.pop(0)
    facts = os.environ
    names = {
        "%A": facts.get("SLURM_ARRAY_JOB_ID", ""),
        "%a": facts.get("SLURM_ARRAY_TASK_ID", ""),
        "%j": facts["SLURM_JOB_ID"],
    }
    started = []
    for task in range(int(facts["SLURM_NTASKS"])):
        files = []
        for option in ("--output", "--error"):
            path = options[option].replace("%t", str(task))
            for name, value in names.items():
                path = path.replace(name, value)
            files.append(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        rank = {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task), "SLURM_NODEID": "0", "SLURM_STEP_ID": "0"}
        started.append(subprocess.Popen(words, env={**facts, **rank}, stdout=files[0], stderr=files[1]))
    sys.exit(max(abs(process.wait()) for process in started))


def sacct(*words):
    print("JobID|State|NodeList")
    for job in (word for word, before in zip(words[1:], words, strict=False) if before == "-j"):
        print(f"{job}|{'COMPLETED' if Path(here(), f'{job}.done').exists() else 'RUNNING'}|localhost")


def scontrol(what, job):
    assert what == "requeue"
    Path(here(), f"{job}.requeue").touch()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
