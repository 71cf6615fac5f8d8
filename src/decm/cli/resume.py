"""Where a fit goes on: the newest whole checkpoint, if it was written with the teacher in hand."""

from pathlib import Path

from decm.cli.teachers import Source
from decm.training.checkpoint_files import facts
from decm.training.checkpoint_folder import newest_valid
from decm.training.checksums import weights_digest


def teacher_facts(source: Source) -> dict[str, str | None]:
    """{path, sha256} of the teacher's weights, which a checkpoint has instead of them; None of what has none."""
    net = source.teacher.network if source.teacher else None
    return {"path": source.path, "sha256": weights_digest(net.state_dict()) if net is not None else None}


def resume_point(folder: Path, teacher: dict[str, str | None]) -> Path | None:
    """The newest whole checkpoint of a folder, None if there is none. Raises ValueError if its teacher was another."""
    checkpoint = newest_valid(folder)
    before = facts(checkpoint).get("teacher") if checkpoint is not None else None
    if before is not None and before["sha256"] != teacher["sha256"]:
        raise ValueError(
            f"The teacher has changed since {checkpoint}: found {teacher['path']} with weights of sha256 "
            f"{_short(teacher)}, expected those of {before['path']} with {_short(before)}. Restore that file (or set "
            "teacher.path to a copy of it), or start afresh, without resume."
        )
    return checkpoint


def _short(teacher: dict[str, str | None]) -> str:
    return (teacher["sha256"] or "none")[:16]
