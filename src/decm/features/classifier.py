"""A small classifier of a set's own pictures: its last hidden layer is the feature space, its verdict the accuracy."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from decm.checkpoints.durable import write_whole
from decm.checkpoints.strict import load_strictly, no_advice
from decm.features.extractor import KEY, read_weights
from decm.flow.randomness import permutation

NAME = "classifier"  # of its features, and of its files
FACTS = "decm"  # the metadata of a file: JSON
FEATURES, BATCH = 64, 64
LOOKED_AT = 2048  # pictures at a time
STEPS, EPOCHS = 2800, 25  # of the training: about so many steps, two epochs or more and 25 or fewer
SMALL = 4  # pixels a side of the last map of features
RECIPE = 2  # changes with the training below, so that a classifier of another one is not taken from the cache


class Classifier(nn.Module):
    """uint8 pictures [N, C, H, W] -> features [N, 64] and logits [N, classes].

    Convolutions halve the sides until none is longer than 4.
    """

    def __init__(self, classes: int = 10, shape: tuple[int, int, int] = (1, 8, 8)) -> None:
        super().__init__()
        self.shape = shape
        width, (channels, *sides) = 32, shape
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        while max(sides) > SMALL:
            wider = min(2 * width, 128)
            layers += [nn.Conv2d(width, wider, 3, stride=2, padding=1), nn.ReLU()]
            width, sides = wider, [-(-side // 2) for side in sides]
        layers += [nn.Flatten(), nn.Linear(width * sides[0] * sides[1], FEATURES), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(pixels.float() / 127.5 - 1)
        return features, self.head(features)


def train_classifier(
    pixels: Tensor, labels: Tensor, seed: int = 0, epochs: int | None = None, classes: int = 10
) -> Classifier:
    """A classifier trained on uint8 pictures [N, C, H, W], reproducibly; of 8x8 digits in five seconds on one core.

    An epoch is N // 64 batches of 64, or one batch of all pictures where there are fewer.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Classifier(classes, tuple(pixels.shape[1:]))  # type: ignore[arg-type]
    batches = max(1, len(pixels) // BATCH)
    epochs = epochs or min(EPOCHS, max(2, round(STEPS / batches)))
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    for epoch in range(epochs):
        for rows in permutation(seed, "classifier", epoch, len(pixels)).split(BATCH)[:batches]:
            loss = nn.functional.cross_entropy(net(pixels[rows])[1], labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval().requires_grad_(False)


@torch.inference_mode()
def accuracy(net: Classifier, pixels: Tensor, labels: Tensor) -> float:
    """The share of pictures that the classifier gives their label."""
    found = torch.cat([net(part)[1].argmax(1) for part in pixels.split(LOOKED_AT)])
    return float((found == labels).double().mean())


def guess_accuracy(labels: Tensor) -> float:
    """The accuracy of giving all images the most frequent label."""
    return int(labels.bincount().max()) / len(labels)


def cached_classifier(
    folder: Path, classes: int, train: tuple[Tensor, Tensor], heldout: tuple[Tensor, Tensor]
) -> tuple[Classifier, float]:
    """The classifier of (pixels, labels), trained once and kept in `folder`, and its accuracy on held-out pictures.

    Its file is known by all that it depends on: both splits, the number of classes and how it is trained.
    """
    path = folder / f"{NAME}_{key_of(classes, *train, *heldout)}.safetensors"
    if path.is_file():
        try:
            return read_classifier(path)
        except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            print(
                f"{path} cannot be read ({' '.join(str(error).split())}): the classifier is trained anew.", flush=True
            )
    if len(train[0]) > LOOKED_AT:
        print(f"A classifier of {len(train[0])} pictures is trained, once: {path}", flush=True)
    net = train_classifier(*train, classes=classes)
    score = accuracy(net, *heldout) if len(heldout[0]) else float("nan")
    facts = {FACTS: json.dumps({"heldout_accuracy": score, "shape": net.shape})}  # one key: they have no order
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda part: save_file(net.state_dict(), part, facts))
    return net, score


def read_classifier(path: str | Path | None, key: str = KEY) -> tuple[Classifier, float]:
    """The classifier of a file of `cached_classifier`, and its accuracy on held-out pictures; NaN if nobody said it."""
    tensors = read_weights(path, f"{NAME}_<hash>.safetensors", "the folder `cache` of a run that made it", key)
    facts: dict[str, Any] = {}
    if Path(str(path)).suffix == ".safetensors":
        with safe_open(str(path), "pt") as file:
            facts = json.loads((file.metadata() or {}).get(FACTS, "{}"))
    net = Classifier(len(tensors.get("head.bias", torch.empty(10))), tuple(facts.get("shape", (1, 8, 8))))
    load_strictly(net, tensors, str(path), advice=no_advice)
    return net.eval().requires_grad_(False), float(facts.get("heldout_accuracy", math.nan))


def key_of(classes: int, *tensors: Tensor) -> str:
    """16 digits of SHA-256 over recipe, classes and the tensors' shapes, types and bytes."""
    digest = hashlib.sha256(f"{RECIPE}/{classes}".encode())
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class ClassifierFeatures(nn.Module):
    """A classifier's last hidden layer, `pool` [N, 64], and `logits` [N, classes], of pictures of its set's shape."""

    name, metric, resize = NAME, "fd", "none"
    meaningless, labels_are_classes = False, True

    def __init__(self, network: Classifier, note: str = "") -> None:
        super().__init__()
        self.network, self.note = network, note
        self.dims: Mapping[str, int] = {"pool": FEATURES, "logits": network.head.out_features}

    @classmethod
    def read(cls, weights: str | Path | None, key: str = KEY) -> Self:
        """From the file that a run with evaluation=classifier (or digits) leaves in its cache."""
        network, score = read_classifier(weights, key)
        return cls(network, "" if math.isnan(score) else f"right on {score:.1%} of held-out images")

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if tuple(images.shape[1:]) != self.network.shape:
            raise ValueError(f"Images of shape {tuple(images.shape[1:])}; the classifier expects {self.network.shape}.")
        pool, logits = self.network(images.to(self.network.head.weight.device))
        return {"pool": pool, "logits": logits}
