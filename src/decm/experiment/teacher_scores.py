"""The scores of a teacher, kept beside it: runs with the same teacher, judge and samples do not score it again."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from decm.checkpoints.code_version import code_version
from decm.checkpoints.durable import write_text
from decm.evaluation.devices import rank_and_world
from decm.evaluation.evaluator import Evaluator
from decm.experiment.resume import teacher_facts
from decm.experiment.teachers import TeacherBundle
from decm.runs.contents import by_content
from decm.runs.folders import read_config

FOLDER = "teacher_scores"  # in the cache of `runs`
NOT_OF_SAMPLES = ("nfe", "samplers", "every", "every_num_samples", "every_nfe", "preview_every")


@dataclass(frozen=True)
class TeacherScores:
    """Files of scores in `folder`, one for each number of steps; `identity` is all that they depend on besides."""

    folder: Path
    identity: dict[str, Any]

    def path(self, evaluator: Evaluator, nfe: int) -> Path:
        parts = {**self.identity, "nfe": nfe, "sampler": evaluator.sampler(nfe, ())}
        return self.folder / f"{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]}.json"

    def completed(
        self, evaluator: Evaluator, nfes: Sequence[int], make: Callable[[list[int]], dict[int, dict[str, float]]]
    ) -> dict[int, dict[str, float]]:
        """Scores for each number of steps: those that were kept, and of `make`, which are kept from now on."""
        kept = {nfe: scores for nfe in nfes if (scores := self.read(evaluator, nfe))}
        if kept:
            print(f"teacher, {', '.join(map(str, kept))} steps: as scored before, {self.folder}", flush=True)
        missing = [nfe for nfe in nfes if nfe not in kept]
        made = make(missing) if missing else {}
        for nfe, scores in made.items():
            self.write(evaluator, nfe, scores)
        return {nfe: kept.get(nfe) or made[nfe] for nfe in nfes if nfe in kept or nfe in made}

    def read(self, evaluator: Evaluator, nfe: int) -> dict[str, float] | None:
        """The scores that were kept; None where there are none, or their file cannot be read."""
        path = self.path(evaluator, nfe)
        try:
            scores = json.loads(path.read_text(encoding="utf-8"))
            return {str(name): float(value) for name, value in scores.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return None

    def write(self, evaluator: Evaluator, nfe: int, scores: dict[str, float]) -> None:
        """Keep scores, unless the samples were not finite."""
        if all(map(math.isfinite, scores.values())):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.path(evaluator, nfe), json.dumps(scores))


def teacher_scores(runs: Path, folder: Path, source: TeacherBundle, device: torch.device | str) -> TeacherScores | None:
    """Where the scores of this run's teacher are kept.

    None for several processes, which might see different files, and where the code is not known by its version: with
    changes that no commit has, or where a judge, a data set or a teacher is somebody's own.
    """
    settings, code = read_config(folder), code_version()
    if settings is None or source.flow_map is None or rank_and_world()[1] > 1 or code.endswith("-dirty"):
        return None
    parts = (settings["data"], settings["network"], settings["evaluation"]["protocol"])
    if not all(str(part["_target_"]).startswith("decm.") for part in parts):
        return None
    known, weights = by_content(settings), teacher_facts(source)["sha256"]
    identity = {
        "teacher": weights or known["teacher"],
        "guidance": known["teacher"]["guidance"],
        "data": known["data"],
        "samples": {key: value for key, value in known["evaluation"].items() if key not in NOT_OF_SAMPLES},
        "device": torch.device(device).type,
        "code": code,
    }
    return TeacherScores(runs / "cache" / FOLDER, identity)
