"""`evaluation=pictures`, `classifier` and `digits`: pictures against the training part of their own set; and `none`."""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from decm.checkpoints.code_version import code_version
from decm.checkpoints.first_process import is_first
from decm.data.arrays import ArrayDataset
from decm.data.loader import Dataset
from decm.data.manifest import Manifest, to_pixels
from decm.data.toy import MixturePoints
from decm.evaluation.devices import compute_device
from decm.evaluation.judge import ImageJudge, NoJudge
from decm.evaluation.pictures import ImagePainter, PointsPainter
from decm.evaluation.progress import progress
from decm.evaluation.statistics import build_reference, read_reference, weights_of, write_reference
from decm.evaluation.titles import is_weak
from decm.features.build import build_extractor
from decm.features.classifier import ClassifierFeatures, cached_classifier, guess_accuracy
from decm.features.extractor import Extractor
from decm.flow.randomness import permutation
from decm.generator.decode import AutoencoderSettings, build_decoder
from decm.protocols.protocol import EvaluationProtocol

INSTEAD = "Take evaluation=pictures, which judges pictures of any size, or evaluation=none, which judges nothing"
FEATURES = ("lite0", "classifier")
BATCH = 64


def digit_images(dataset: Dataset, cache: Path) -> EvaluationProtocol:
    """8x8 digits, or other gray 8x8 images of two classes or more: by a classifier's features, as in `own_pictures`."""
    if not isinstance(dataset, ArrayDataset) or dataset.manifest.shape != (1, 8, 8):
        raise ValueError(
            f"evaluation=digits judges 1x8x8 images; data {dataset.manifest.name!r} has {dataset.manifest.shape}. "
            f"{INSTEAD}; for 2-D mixtures, evaluation=twod."
        )
    return own_pictures(dataset, cache, "classifier")


def own_pictures(
    dataset: Dataset, cache: Path, features: str = "lite0", num_reference: int = 10_000, accuracy: bool = False
) -> EvaluationProtocol:
    """Distances to the training pictures of the set itself, and what its held-out part tells.

    Of each part `num_reference` pictures at random are the reference, or all if there are fewer.
    `features=lite0`: of EfficientNet-Lite0; with `accuracy`, a classifier that is trained on the set gives the accuracy
    of samples. `features=classifier`: the features are that classifier's. What is made once is kept in `cache`.
    Raises ValueError for other features, and for data that are no pictures.
    """
    manifest = dataset.manifest
    if not isinstance(dataset, ArrayDataset) or manifest.shape[0] not in (1, 3) or manifest.shape[1:] == (1, 1):
        raise ValueError(
            f"evaluation=pictures judges gray or RGB pictures; data {manifest.name!r} has states of "
            f"{manifest.shape}. Take evaluation=images for latents, twod for 2-D mixtures, or none."
        )
    if features not in FEATURES:
        raise ValueError(f"evaluation.protocol.features={features}; expected {' or '.join(FEATURES)}.")
    if num_reference < 2:
        raise ValueError(f"evaluation.protocol.num_reference={num_reference}; expected 2 or more.")
    pixels = partial(to_pixels, manifest=manifest)
    rows = {
        part: permutation(0, "reference", 0, len(labels))[:num_reference].sort().values
        for part, labels in (("train", dataset.train_y), ("heldout", dataset.heldout_y))
    }
    heldout, labels = dataset.heldout_x[rows["heldout"]], dataset.heldout_y[rows["heldout"]]
    classifier = trained_classifier(dataset, cache) if accuracy or features == "classifier" else None
    if features == "classifier":
        assert classifier is not None
        known = classifier(pixels(dataset.train_x[rows["train"]]))["pool"]
        judge = ImageJudge(classifier, pixels, dataset.train_x, heldout, labels, known)
        return EvaluationProtocol(judge, ImagePainter(pixels))
    extractor = build_extractor(features).to(compute_device())
    known = kept_features(pixels(dataset.train_x[rows["train"]]), extractor, cache, manifest, "training pictures")
    held = kept_features(pixels(heldout), extractor, cache, manifest, "held-out pictures")
    judge = ImageJudge(extractor, pixels, dataset.train_x, heldout, labels, known, held, classifier)
    return EvaluationProtocol(judge, ImagePainter(pixels))


def unjudged(dataset: Dataset, cache: Path) -> EvaluationProtocol:
    """No scores, pictures to look at alone: those of pictures, of points, and of latents by a fixed projection."""
    manifest = dataset.manifest
    if isinstance(dataset, MixturePoints):
        return EvaluationProtocol(NoJudge(), PointsPainter(manifest.extra["limit"]))
    if manifest.extra.get("kind") == "latents" or manifest.shape[0] not in (1, 3):
        projection: AutoencoderSettings = {"kind": "projection", "path": None, "args": None, "chunk": BATCH}
        return EvaluationProtocol(NoJudge(), ImagePainter(build_decoder(manifest, projection, "evaluation.protocol")))
    return EvaluationProtocol(NoJudge(), ImagePainter(partial(to_pixels, manifest=manifest)))


def trained_classifier(dataset: ArrayDataset, cache: Path) -> ClassifierFeatures:
    """The classifier of the set's pictures, named where it is weak. Raises ValueError for a set without two classes."""
    classes = dataset.manifest.num_classes
    if classes < 2:
        raise ValueError(
            f"features=classifier trains a classifier, and data {dataset.manifest.name!r} has num_classes={classes}; "
            f"expected 2 or more. {INSTEAD}."
        )
    pixels = partial(to_pixels, manifest=dataset.manifest)
    train, heldout = (pixels(dataset.train_x), dataset.train_y), (pixels(dataset.heldout_x), dataset.heldout_y)
    net, score = cached_classifier(cache, classes, train, heldout)
    if len(heldout[1]) and is_weak(score, guess_accuracy(heldout[1])) and is_first():
        print(
            f"The classifier that judges, trained on {len(train[1])} images, is right on {score:.1%} of "
            f"{len(heldout[1])} held-out images: its figures say little. {INSTEAD}, or give more images.",
            flush=True,
        )
    return ClassifierFeatures(net)


def kept_features(pictures: Tensor, extractor: Extractor, cache: Path, manifest: Manifest, what: str) -> Tensor:
    """The features [N, D] of uint8 pictures [N, C, H, W], looked at once for each content and network."""
    if len(pictures) < 2:  # too few for statistics
        none = pictures.new_zeros(0, extractor.dims["pool"], dtype=torch.float32)
        return torch.cat([none, *(extractor(one)["pool"].cpu() for one in pictures.split(1) if len(one))])
    parts: list[Any] = [manifest.content_hash, what, len(pictures), extractor.name, weights_of(extractor)]
    path = cache / f"features_{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}.npz"
    if path.is_file():
        try:
            found = read_reference(path).features
        except ValueError as error:
            print(f"{error} It is made anew.", flush=True)
            found = None
        if found is not None and len(found) == len(pictures):
            return found
    title = f"{what} of {manifest.name}, features {extractor.name}, once"
    with progress(title, len(pictures)) as advance:
        made = build_reference(pictures.split(BATCH), extractor, title, code_version(), len(pictures), advance)
    write_reference(path, made)
    assert made.features is not None
    return made.features
