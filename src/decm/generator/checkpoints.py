"""A run's checkpoints and what `decm consolidate` makes of them, as plain data."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from decm.checkpoints.files import read_file
from decm.checkpoints.folder import newest_valid
from decm.checkpoints.names import LAST_OF_RUN, step_of
from decm.checkpoints.sealed import DamagedError, NewerSchemaError
from decm.generator.files import CONFIG, WEIGHTS
from decm.generator.networks import check_targets

STUDENT, EMA = "student.", "ema."
WRITTEN = ("decm_config", "manifest", "global_step", "state_dict", "code_version")  # into every checkpoint
BUILT = ("network", "data", "evaluation")  # of a stored configuration, by whichever verb
CONSOLIDATED = ".safetensors"  # weights alone, of decm consolidate


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint that a file or a run folder means. Raises ValueError if there is none."""
    path = Path(path)
    if path.is_file() or (path.is_dir() and path.suffix == LAST_OF_RUN.suffix):  # the latter is a sharded checkpoint
        return path
    if not path.exists():
        raise ValueError(f"Checkpoint {str(path)!r} does not exist; expected a run folder or a .ckpt file.")
    if (path / WEIGHTS).is_file() and (path / CONFIG).is_file():
        raise ValueError(f"{str(path)!r} is a folder of `decm export`; expected the run folder that it was made of.")
    if not (path / LAST_OF_RUN).exists() and (newest := newest_valid((path / LAST_OF_RUN).parent)) is not None:
        print(f"{path} has no {LAST_OF_RUN}: {newest.name} is taken, its newest checkpoint that is whole.", flush=True)
        return newest
    if not (path / LAST_OF_RUN).exists():
        raise ValueError(
            f"{str(path)!r} has no {LAST_OF_RUN}: no checkpoint was saved there yet, or it is no run folder."
        )
    return path / LAST_OF_RUN


def run_folder_of(checkpoint: Path) -> Path:
    """The folder of the run that wrote a checkpoint, or the file's own folder."""
    return checkpoint.parent.parent if checkpoint.parent.name == LAST_OF_RUN.parent.name else checkpoint.parent


def read_checkpoint(path: str | Path, parts: Sequence[str] = BUILT) -> dict[str, Any]:
    """A checkpoint's contents, plain data and tensors only. Raises ValueError for anything else.

    `parts` of its configuration are those that will be built: what they call is imported, to see that it may be called.
    """
    file = find_checkpoint(path)
    try:
        checkpoint = read_consolidated(file) if file.suffix == CONSOLIDATED else read_file(file)
    except NewerSchemaError:
        raise
    except Exception as error:  # whatever the reader says, the file is not ours
        why = error.why if isinstance(error, DamagedError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{file} is not a checkpoint of decm, or it is damaged: {why}.{instead_of(file)}") from error
    missing = [key for key in WRITTEN if key not in checkpoint]
    if missing:
        raise ValueError(f"{file} was not written by decm: it has no {', '.join(missing)}.")
    check_targets(checkpoint["decm_config"], file, parts)
    return checkpoint


def instead_of(file: Path) -> str:
    """What to say about the checkpoints beside a damaged one; nothing where there is none."""
    named = file.resolve()
    whole = newest_valid(file.parent, say=lambda line: None) if step_of(named) is not None else None
    return f" The newest one that is whole: pass {whole} instead." if whole is not None and whole != named else ""


def read_consolidated(file: Path) -> dict[str, Any]:
    """A file of `decm consolidate` as a checkpoint that holds its weights alone, as the averaged ones."""
    with safe_open(file, "pt") as stored:
        metadata = stored.metadata() or {}
        weights = {f"{EMA}{key}": stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118, it is no mapping
    if "decm_config" not in metadata:
        return {}
    return {
        "decm_config": json.loads(metadata["decm_config"]),
        "global_step": int(metadata["global_step"]),
        "manifest": json.loads(metadata["manifest"]),
        "code_version": metadata["code_version"],
        "weights": metadata["weights"],
        "state_dict": weights,
    }


def weights_of(checkpoint: dict[str, Any], prefix: str = EMA) -> dict[str, torch.Tensor]:
    """The averaged (or, with prefix `student.`, the raw) weights of a checkpoint, under the network's own names."""
    state = checkpoint["state_dict"]
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
