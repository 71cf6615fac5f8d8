"""Share the folders that the first process of a run (rank 0) chooses with the other processes of the launch.

Lightning launches them from the first one, so that they inherit its environment; torchrun and SLURM launch all alike.
"""

import os
import time
from pathlib import Path

from decm.checkpoints.durable import write_text

PATIENCE = 1800.0  # seconds that a process waits for the first one, which may wait for a lock


def is_first() -> bool:
    """Whether this is the first process of all (of the only one, of Lightning's, torchrun's or SLURM's)."""
    names = ("RANK",) if "RANK" in os.environ else ("LOCAL_RANK", "SLURM_PROCID")  # torchrun's; Lightning's, SLURM's
    return all(os.environ.get(name, "0") == "0" for name in names)


def announce_folder(name: str, folder: Path, root: Path) -> None:
    """Tell the other processes of this launch which folder `name` means; all of them can read `root`."""
    os.environ[name] = str(folder)
    if _torchrun():
        _store().set(name, str(folder))
    elif _slurm():
        word = _word(name, root)
        word.parent.mkdir(parents=True, exist_ok=True)
        write_text(word, str(folder))


def inherited_folder(name: str, root: Path) -> Path | None:
    """The folder that the first process announced; None on the first. Raises TimeoutError if it announces none."""
    if is_first():
        return None
    if _torchrun():
        return Path(_store().get(name).decode())
    if _slurm():
        word, limit = _word(name, root), time.monotonic() + PATIENCE
        while not word.is_file():
            if time.monotonic() > limit:
                raise TimeoutError(f"The first process has not said for {PATIENCE:g} s what {name} is ({word}).")
            time.sleep(0.5)
        return Path(word.read_text(encoding="utf-8"))
    return Path(os.environ[name]) if name in os.environ else None


def _torchrun() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def in_slurm_step() -> bool:
    """Whether srun started this process; in an allocation alone there is one process, whatever SLURM_NTASKS says."""
    return "SLURM_STEP_ID" in os.environ


def _slurm() -> bool:
    return in_slurm_step() and int(os.environ.get("SLURM_NTASKS", 1)) > 1


def _store():  # type: ignore[no-untyped-def]  # torch is imported where it is used: the command line starts without
    """The store that torchrun keeps for its processes."""
    from datetime import timedelta

    from torch.distributed import PrefixStore, TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=PATIENCE))
    return PrefixStore(f"decm/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def _word(name: str, root: Path) -> Path:
    """A file of this launch alone: SLURM counts a job's steps and restarts."""
    launch = [os.environ.get(f"SLURM_{key}", "0") for key in ("JOB_ID", "STEP_ID", "RESTART_COUNT")]
    return root / ".launches" / f"{'-'.join(launch)}-{name}"
