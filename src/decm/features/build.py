"""The feature extractors by name."""

from pathlib import Path

from decm.features.classifier import ClassifierFeatures
from decm.features.dinov2 import Dinov2Features
from decm.features.extractor import KEY, Extractor
from decm.features.inception import InceptionFeatures
from decm.features.lite0 import Lite0Features
from decm.features.random import RandomFeatures, RandomInceptionFeatures

EXTRACTORS = {
    "inception": InceptionFeatures,
    "dinov2": Dinov2Features,
    "lite0": Lite0Features,
    "classifier": ClassifierFeatures.read,
    "random_inception": RandomInceptionFeatures,
    "random_small": RandomFeatures,
}


def build_extractor(features: str, weights: str | Path | None = None, key: str = KEY) -> Extractor:
    """The extractor of that name, its weights read from a local file; `key` is the setting that an error names."""
    if features not in EXTRACTORS:
        raise ValueError(f"features={features!r} is unknown. Choose one of {', '.join(EXTRACTORS)}.")
    return EXTRACTORS[features](weights, key)  # type: ignore[operator]
