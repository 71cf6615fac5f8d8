"""Reference statistics: what a set of images looks like to an extractor, in an `.npz` file.

Keys: `mu`, `sigma` of the features `pool`; `mu_s`, `sigma_s` of `spatial`; `features` [M, D], the pool features of a
random part of the images, for KID, precision and recall; `provenance`, a JSON string. ADM's files have the first four
and `arr_0`, the images themselves [M, H, W, 3]; both kinds are read, and nothing that is pickled.
"""

import json
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from decm.checkpoints.checksums import weights_digest
from decm.checkpoints.durable import save_npz, write_whole
from decm.evaluation.frechet import Moments, is_covariance
from decm.evaluation.scores import NEIGHBORS, FeatureSubset, Neighborhoods
from decm.features.extractor import Extractor

KEYS = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
BUILD = "Build one with: decm reference images=<folder> out=<file>.npz"


@dataclass
class Reference:
    """Moments by feature, {"pool": (mean [D], covariance [D, D])}, in float64, and where they come from."""

    moments: dict[str, tuple[Tensor, Tensor]]
    provenance: dict[str, Any] = field(default_factory=dict)
    features: Tensor | None = None  # [M, D] float32
    path: Path | None = None
    has_images: bool = False
    _neighborhoods: Neighborhoods | None = field(default=None, init=False, repr=False)

    @property
    def complete(self) -> bool:
        """Whether `features` are those of every image of the set."""
        return self.features is not None and len(self.features) == self.provenance.get("count")

    def describe(self) -> str:
        """One line for a table."""
        p = self.provenance
        where = self.path.name if self.path else "statistics"
        return f"{p['what']} ({p['count']} images)" if {"what", "count"} <= set(p) else where

    def check_fits(self, extractor: Extractor) -> None:
        """Raise ValueError unless the statistics are of this extractor's features."""
        made_with = self.provenance.get("features", extractor.name)
        if made_with != extractor.name:
            raise ValueError(
                f"{self.describe()}: made with features={made_with}, but the samples' are {extractor.name}."
            )
        here, there = weights_of(extractor), self.provenance.get("weights")
        if here and there and here != there:
            raise ValueError(
                f"{self.describe()}: made with other weights of features={extractor.name} ({there[:8]}, here "
                f"{here[:8]}). Name the same file of weights, or build the statistics again with this one."
            )
        for name, (mean, _) in self.moments.items():
            if name in extractor.dims and len(mean) != extractor.dims[name]:
                raise ValueError(
                    f"{self.describe()}: {KEYS[name][0]} has {len(mean)} dimensions; features={extractor.name} has "
                    f"{extractor.dims[name]}. The reference was made with other features."
                )

    def known_features(self, extractor: Extractor, batch_size: int = 64) -> Tensor | None:
        """The pool features that the file holds, or those of the images that it holds (computed once), or None."""
        if self.features is None and self.has_images and self.path is not None:
            with np.load(self.path, allow_pickle=False) as file:
                images = torch.from_numpy(file["arr_0"]).permute(0, 3, 1, 2)  # [M, 3, H, W]
            self.features = torch.cat([extractor(part)["pool"].cpu() for part in images.split(batch_size)])
        return self.features

    def neighborhoods(self, extractor: Extractor, device: torch.device) -> Neighborhoods | None:
        """Those of `known_features`, in float64 (computed once); None where too few features are known."""
        if self._neighborhoods is None:
            features = self.known_features(extractor)
            if features is None or len(features) <= NEIGHBORS:
                return None
            self._neighborhoods = Neighborhoods(features.to(device))
        return self._neighborhoods


@lru_cache(maxsize=4)  # asked at every evaluation in the loop
def weights_of(extractor: Extractor) -> str:
    """The hash of an extractor's weights; empty where its figures mean nothing, or it has none."""
    if extractor.meaningless or not isinstance(extractor, nn.Module):
        return ""
    return weights_digest(extractor.state_dict())


def _moments(file: Any, path: Path, mean_key: str, cov_key: str) -> tuple[Tensor, Tensor]:
    mean, cov = (torch.from_numpy(np.asarray(file[key], dtype=np.float64)) for key in (mean_key, cov_key))
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        raise ValueError(
            f"{path}: {mean_key} is {tuple(mean.shape)} and {cov_key} {tuple(cov.shape)}; expected (D,) and (D, D)."
        )
    if not (mean.isfinite().all() and cov.isfinite().all()):
        raise ValueError(f"{path}: {mean_key} or {cov_key} holds NaN or infinity. {BUILD}.")
    if not is_covariance(mean, cov):
        raise ValueError(
            f"{path} is damaged: {cov_key} is no covariance, for it is not symmetric or has a negative eigenvalue. "
            f"{BUILD}."
        )
    return mean, cov


def read_reference(path: str | Path) -> Reference:
    """Read a reference file. Raises ValueError if it is missing, damaged, pickled, or has no mu and sigma."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"Reference statistics {str(path)!r} do not exist. {BUILD}; or fetch ADM's (VIRTUAL_*.npz).")
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError(f"{path} is a bare array; expected an npz file with mu and sigma. {BUILD}.")
        with file:
            if not {"mu", "sigma"} <= set(file.files):
                found = ", ".join(file.files) or "nothing"
                raise ValueError(f"{path} holds {found}; expected at least mu and sigma. {BUILD}.")
            pairs = {name: keys for name, keys in KEYS.items() if set(keys) <= set(file.files)}
            moments = {name: _moments(file, path, *keys) for name, keys in pairs.items()}
            provenance = json.loads(str(file["provenance"])) if "provenance" in file.files else {}
            if provenance.get("features") == "digit_classifier":  # its earlier name
                provenance["features"] = "classifier"
            features = torch.from_numpy(file["features"]).float() if "features" in file.files else None
            return Reference(moments, provenance, features, path, "arr_0" in file.files)
    except (zipfile.BadZipFile, EOFError, OSError, KeyError) as error:
        raise ValueError(f"{path} is damaged, or it is no npz file ({error}). {BUILD}.") from error
    except ValueError as error:
        if "pickle" in str(error):
            raise ValueError(
                f"{path} is no npz file, or holds pickled objects, which are never read. {BUILD}."
            ) from error
        raise


def write_reference(path: str | Path, reference: Reference) -> None:
    """Write a reference file, whole or not at all."""
    arrays: dict[str, Any] = {}
    for name, (mean, cov) in reference.moments.items():
        arrays |= dict(zip(KEYS[name], (mean.cpu().numpy(), cov.cpu().numpy()), strict=True))
    if reference.features is not None:
        arrays["features"] = reference.features.cpu().numpy()
    arrays["provenance"] = np.array(json.dumps(reference.provenance))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda part: save_npz(part, **arrays))


def build_reference(
    images: Iterable[Tensor],
    extractor: Extractor,
    what: str,
    code_version: str,
    keep: int = 10_000,
    progress: Callable[[int], None] = lambda _: None,
) -> Reference:
    """The statistics of batches of uint8 images [B, 1 or 3, H, W]; `progress` gets the number of images that came.

    The pool features of `keep` images are kept, a random part that depends on their number alone.
    Raises ValueError for fewer than two images.
    """
    sums = {name: Moments(extractor.dims[name], distributed=False) for name in KEYS if name in extractor.dims}
    kept, count = FeatureSubset(extractor.dims["pool"], keep, distributed=False), 0
    for batch in images:
        found = extractor(batch)
        for name, metric in sums.items():
            metric.update(found[name].cpu())
        kept.update(found["pool"].cpu(), torch.arange(count, count + len(batch)))
        count += len(batch)
        progress(len(batch))
    if count < 2:
        raise ValueError(f"{what}: {count} images; expected two or more.")
    provenance = {
        "what": what,
        "count": count,
        "features": extractor.name,
        "weights": weights_of(extractor),
        "resize": extractor.resize,
        "kept": min(count, keep),
        "meaningless": extractor.meaningless,
        "code_version": code_version,
    }
    return Reference(
        {name: metric.moments() for name, metric in sums.items()}, provenance, kept.compute() if keep else None
    )
