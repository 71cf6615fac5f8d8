"""Data sets and weights by what they hold, so that they are known again wherever they lie."""

import copy
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from decm.checkpoints.names import LAST_OF_RUN

CONTENTS = "contents"  # of a plain configuration: {setting that is a path: sha256 of what lies there}
DATA, TEACHER = "data.path", "teacher.path"
WEIGHTS = (
    TEACHER,
    "warm_start",
    "evaluation.protocol.reference",
    "evaluation.protocol.weights",
    "evaluation.protocol.autoencoder.path",
    "evaluation.protocol.dinov2.reference",
    "evaluation.protocol.dinov2.weights",
)
SYNTHETIC = "decm.data.making.latent_sources.synthetic_latents"  # made where it lies, from its other settings alone
SETS = "decm.data.sets."  # which read the files that a set was published in
DECIDES = ("content_hash", "shape", "num_classes", "mean", "std", "split")  # of a manifest, what is trained on
EXPORTED = "model.safetensors"  # of an exported folder


def contents(settings: dict[str, Any]) -> dict[str, str]:
    """{setting: sha256} of the paths in a plain configuration, without those where nothing lies that can be read."""
    found = {}
    for key in (DATA, *WEIGHTS):
        path = _get(settings, key)
        content, target = None, str((settings.get("data") or {}).get("_target_"))
        if key == DATA and target == SYNTHETIC:
            content = "synthetic"
        elif key == DATA and target.startswith(SETS):
            content = published_content(target.rpartition(".")[2], path)
        elif isinstance(path, str):
            content = data_content(Path(path)) if key == DATA else weights_content(Path(path))
        if content is not None:
            found[key] = content
    return found


def published_content(which: str, path: str | None) -> str | None:
    """sha256 of the files that a known set is read from; None where they are not all there."""
    from decm.data.published import published_files

    files = published_files(which, path)
    return hashlib.sha256(json.dumps([weights_content(file) for file in files]).encode()).hexdigest() if files else None


def data_content(folder: Path) -> str | None:
    """sha256 of what a data set's manifest says of its samples; None without a manifest that can be read."""
    from decm.data.manifest import MANIFEST, read_manifest

    if not (folder / MANIFEST).is_file():
        return None
    try:
        manifest = read_manifest(folder)
    except ValueError:  # it is refused by name where it is read
        return None
    decisive = {key: getattr(manifest, key) for key in DECIDES}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def weights_content(path: Path) -> str | None:
    """The checksum of a file, or of the weights in a run's or an exported folder; None where there is none."""
    if path.is_dir() and path.suffix != LAST_OF_RUN.suffix:  # a checkpoint that is a folder is a sharded one
        path = path / EXPORTED if (path / EXPORTED).is_file() else _newest_checkpoint(path)
    if not path.exists():
        return None
    file = path.resolve()
    known = file.stat()
    return _weights_content(file, known.st_size, known.st_mtime_ns, known.st_ino)


def _newest_checkpoint(run: Path) -> Path:
    from decm.checkpoints.folder import newest

    last = run / LAST_OF_RUN
    return newest(last.parent) or last


@lru_cache(maxsize=64)
def _weights_content(file: Path, size: int, time: int, inode: int) -> str | None:
    """The checksum that a checkpoint carries, without reading its weights; of any other file the sha256 of its bytes.

    Size, time and inode are the key of the cache: gigabytes are read once in a process.
    """
    from decm.checkpoints.checksums import file_digest
    from decm.checkpoints.files import read_metadata
    from decm.checkpoints.sealed import CHECKSUM, DamagedError

    if file.suffix == LAST_OF_RUN.suffix:
        try:
            found = read_metadata(file)
        except (DamagedError, OSError):  # it is refused by name where it is read
            return None
        if isinstance(found, dict) and CHECKSUM in found:
            return str(found[CHECKSUM])
    return None if file.is_dir() else file_digest(file)


def by_content(settings: dict[str, Any]) -> dict[str, Any]:
    """A copy of a plain configuration in which each path with a known checksum is replaced by the checksum."""
    replaced = copy.deepcopy(settings)
    for key, content in (settings.get(CONTENTS) or {}).items():
        _set(replaced, key, content)
    return replaced


def both_by_content(a: dict[str, Any], b: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Copies of two plain configurations in which paths with equal content are equal, as far as both know the content.

    A teacher that has changed under the same path is left to `resume_point`, which knows it by its weights.
    """
    first, second = copy.deepcopy(a), copy.deepcopy(b)
    ours, theirs = a.get(CONTENTS) or {}, b.get(CONTENTS) or {}
    for key in set(ours) & set(theirs):
        if ours[key] == theirs[key]:
            _set(first, key, ours[key])
            _set(second, key, ours[key])
        elif not (key == TEACHER and _get(a, key) == _get(b, key)):
            for one, known in ((first, ours), (second, theirs)):
                _set(one, key, f"{_get(one, key)} (of content {known[key][:12]})")
    return first, second


def kept_contents(before: dict[str, Any], settings: dict[str, Any]) -> dict[str, str]:
    """The contents that an earlier configuration knows of paths which are the same now, be they there or not."""
    known: dict[str, str] = before.get(CONTENTS) or {}
    return {key: content for key, content in known.items() if _get(before, key) == _get(settings, key)}


def _get(settings: dict[str, Any], key: str) -> Any:
    """The value of a dotted key; None where there is none."""
    node: Any = settings
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _set(settings: dict[str, Any], key: str, value: Any) -> None:
    """Give a dotted key that is there another value."""
    parents, _, last = key.rpartition(".")
    node = _get(settings, parents) if parents else settings
    if isinstance(node, dict) and last in node:
        node[last] = value
