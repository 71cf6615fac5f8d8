"""What a data set is: shape, classes, normalization, split and content hash. No manifest, no run."""

import hashlib
import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decm.checkpoints.durable import write_text
from decm.data.image_files import holds_images

MANIFEST = "manifest.json"
MOST_CLASSES = 1_000_000
ADVICE = (
    "Make one of a folder of pictures with `decm data images=<folder> size=<pixels a side> out=<data set>`, or of "
    "arrays with decm.data.arrays.write_arrays."
)
OF_PICTURES = "decm data images={} size=<pixels a side> out={}"
LATENTS_ADVICE = (
    " Or make latents that fit, with `decm latents encode` or `decm latents import`; `decm latents check` tells what a "
    "set holds."
)


@dataclass(frozen=True)
class Manifest:
    """Facts about a data set. States are x = (raw - mean) / std per channel, where raw images lie in [0, 1].

    `class_names` are those of the labels 0, 1, ..., as far as they have one; None: unknown. The content hash is of
    states and labels, which are all that training reads: names may be corrected without making other data.
    """

    name: str
    shape: tuple[int, int, int]  # (C, H, W) of a state
    num_classes: int  # 0: unconditional
    mean: tuple[float, ...]  # per channel
    std: tuple[float, ...]  # per channel
    split: dict[str, Any]  # e.g. {"train": 1497, "heldout": 300, "seed": 0}
    content_hash: str
    origin: str
    extra: dict[str, Any] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None

    def labels(self) -> list[str]:
        """What each label is called in messages, its number where it has no name; [] for an unconditional set."""
        names = self.class_names or ()
        return [*map(printable, names), *(f"label {k}" for k in range(len(names), self.num_classes))]

    def classes(self, most: int = 12) -> str:
        """`3 classes (0: cat, 1: dog, 2: -)`: labels with their names, the middle left out where there are many."""
        names = self.class_names or ()
        if not self.num_classes or not names:
            return f"{self.num_classes} classes without names" if self.num_classes else "no classes"
        shown = [f"{k}: {printable(names[k]) if k < len(names) else '-'}" for k in range(self.num_classes)]
        if len(shown) > most:
            shown = [*shown[: most // 2], "...", *shown[-(most // 2) :]]
        return f"{self.num_classes} classes ({', '.join(shown)})"

    def identity(self) -> str:
        """What set this is, by name, content and split, for figures to be compared by."""
        split = "".join(f", {key} {value}" for key, value in self.split.items() if isinstance(value, int))
        return f"{self.name} of content {self.content_hash[:12]}{split}"

    def write(self, folder: Path) -> None:
        """Write `folder/manifest.json`, whole or not at all."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        write_text(folder / MANIFEST, text)

    def metadata(self) -> dict[str, Any]:
        """What travels with a model: plain JSON, all but the list of the set's files; `manifest_of` reads it back."""
        kept = {key: value for key, value in self.extra.items() if key != "shards"}
        return json.loads(json.dumps(asdict(replace(self, extra=kept))))

    def check_fits(self, network_shape: tuple[int, ...], network_classes: int) -> None:
        """Raise ValueError unless a network of these shapes can be trained on the set."""
        if tuple(self.shape) != tuple(network_shape) or self.num_classes != network_classes:
            latents = self.extra.get("kind") == "latents"
            raise ValueError(
                f"Data set {self.name!r} has states of shape {tuple(self.shape)} and {self.num_classes} classes, but "
                f"the network expects {tuple(network_shape)} and {network_classes}. Choose another `network`, or set "
                "its input_size (a number, or [height,width]), in_channels and num_classes."
                f"{LATENTS_ADVICE if latents else ''}"
            )


def read_manifest(folder: str | Path, advice: str = ADVICE, of_pictures: str = OF_PICTURES) -> Manifest:
    """Read `folder/manifest.json`.

    Raises ValueError if the folder or the manifest is missing or malformed. It ends in the `advice`, or for a folder of
    pictures in the command that makes a set of them.
    """
    path = Path(folder) / MANIFEST
    if not Path(folder).is_dir():
        found = "is a file" if Path(folder).exists() else "does not exist"
        raise ValueError(f"Data directory {str(folder)!r} {found}. Set `data.path` to a prepared data set. {advice}")
    if not path.exists() and holds_images(folder):
        images = Path(folder) if Path(folder).name not in ("", "..") else Path(folder).resolve()
        out = images.with_name(f"{images.name}-set")
        command = of_pictures.format(*(shlex.quote(str(place)) for place in (images, out)))
        raise ValueError(
            f"Data directory {str(folder)!r} holds pictures, and no {MANIFEST}. Make a data set of them with "
            f"`{command}`, and set data.path={out}."
        )
    if not path.is_file():
        raise ValueError(
            f"Data directory {str(folder)!r} has no {MANIFEST}, so its shape, classes and normalization are unknown. "
            f"{advice}"
        )
    try:
        return manifest_of(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}). Make it readable for this user.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a manifest that this version can read ({error}). {advice}") from error


def manifest_of(metadata: dict[str, Any]) -> Manifest:
    """The manifest of plain metadata. Raises ValueError, TypeError or KeyError for what cannot be."""
    tuples = {key: tuple(metadata[key]) for key in ("shape", "mean", "std")}
    return checked(Manifest(**{**metadata, **tuples, "class_names": named(metadata.get("class_names"))}))


def named(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Names of classes as a manifest has them. Raises ValueError for what is no list of texts."""
    if names is not None and (
        not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(n, str) and n for n in names)
    ):
        raise ValueError(f"class_names is {names!r}; expected a list of names, the first of label 0")
    return tuple(map(str, names)) if names else None


def printable(name: str) -> str:
    """A name in one line, at most 40 characters of it."""
    shown = name if name.isprintable() else ascii(name)[1:-1]
    return shown if len(shown) <= 40 else f"{shown[:37]}..."


def check_classes(num_classes: int) -> None:
    """Raise ValueError for a number of classes below 0, or beyond what any network has a label for."""
    if not 0 <= num_classes <= MOST_CLASSES:
        raise ValueError(f"num_classes={num_classes}; expected 0 to {MOST_CLASSES:,}")


def checked(manifest: Manifest) -> Manifest:
    """The manifest. Raises ValueError or TypeError for a fact that cannot be."""
    C, H, W = manifest.shape
    if min(C, H, W) < 1:
        raise ValueError(f"shape {list(manifest.shape)}; expected [channels, height, width]")
    check_classes(manifest.num_classes)
    for name in ("mean", "std"):
        values = getattr(manifest, name)
        if len(values) != C or not all(math.isfinite(value) for value in values):
            raise ValueError(f"{name} is {list(values)}; expected {C} finite numbers, one a channel")
    if min(manifest.std) <= 0:
        raise ValueError(f"std is {list(manifest.std)}; expected numbers above 0")
    if len(manifest.class_names or ()) > manifest.num_classes:
        raise ValueError(
            f"class_names has {len(manifest.class_names or ())} names, for {manifest.num_classes} classes; expected "
            "at most one a class"
        )
    return manifest


def content_hash(*tensors: Tensor) -> str:
    """SHA-256 over shapes, types and bytes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def to_pixels(x: Tensor, manifest: Manifest) -> Tensor:
    """Normalized states [B, C, H, W] as uint8 images, rounded and clipped."""
    mean = torch.tensor(manifest.mean, dtype=x.dtype, device=x.device)[:, None, None]
    std = torch.tensor(manifest.std, dtype=x.dtype, device=x.device)[:, None, None]
    return ((x * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
