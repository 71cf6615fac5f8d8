"""A small digit classifier: its penultimate layer is the feature space, its verdict the accuracy of samples."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from decm.checkpoints.durable import write_whole
from decm.flow.randomness import permutation

FEATURES, BATCH = 64, 64
RECIPE = 2  # changes with the training below, so that a classifier of another one is not taken from the cache


class DigitClassifier(nn.Module):
    """uint8 images [N, 1, 8, 8] -> features [N, 64] and logits [N, classes]."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 16, FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(pixels.float() / 127.5 - 1)
        return features, self.head(features)


def train_classifier(
    pixels: Tensor, labels: Tensor, seed: int = 0, epochs: int = 25, classes: int = 10
) -> DigitClassifier:
    """A classifier trained on uint8 images [N, 1, 8, 8], reproducibly; about five seconds on one core.

    An epoch is N // 64 batches of 64, or one batch of all images where there are fewer.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = DigitClassifier(classes)
    batches = max(1, len(pixels) // BATCH)
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
def accuracy(net: DigitClassifier, pixels: Tensor, labels: Tensor) -> float:
    """The share of images that the classifier gives their label."""
    return float((net(pixels)[1].argmax(1) == labels).double().mean())


def guess_accuracy(labels: Tensor) -> float:
    """The accuracy of giving all images the most frequent label."""
    return int(labels.bincount().max()) / len(labels)


def cached_classifier(
    folder: Path, classes: int, train: tuple[Tensor, Tensor], heldout: tuple[Tensor, Tensor]
) -> tuple[DigitClassifier, float]:
    """The classifier of (pixels, labels), trained once and kept in `folder`, and its accuracy on held-out images.

    Its file is known by all that it depends on: both splits, the number of classes and how it is trained.
    """
    path = folder / f"digit_classifier_{key_of(classes, *train, *heldout)}.safetensors"
    if path.is_file():
        try:
            return read_classifier(path, classes)
        except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            print(
                f"{path} cannot be read ({' '.join(str(error).split())}): the classifier is trained anew.", flush=True
            )
    net = train_classifier(*train, classes=classes)
    score = accuracy(net, *heldout)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda part: save_file(net.state_dict(), part, {"heldout_accuracy": str(score)}))
    return net, score


def read_classifier(path: Path, classes: int) -> tuple[DigitClassifier, float]:
    """The classifier of a file of `cached_classifier`, and its accuracy on held-out images."""
    net = DigitClassifier(classes)
    with safe_open(path, "pt") as file:
        net.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        return net.eval().requires_grad_(False), float(file.metadata()["heldout_accuracy"])


def heldout_note(weights: Path) -> str:
    """What the file of a classifier says of its accuracy on held-out images."""
    if weights.suffix != ".safetensors":
        return ""
    with safe_open(weights, "pt") as file:
        score = (file.metadata() or {}).get("heldout_accuracy")
    return f"right on {float(score):.1%} of held-out images" if score is not None else ""


def key_of(classes: int, *tensors: Tensor) -> str:
    """16 digits of SHA-256 over recipe, classes and the tensors' shapes, types and bytes."""
    digest = hashlib.sha256(f"{RECIPE}/{classes}".encode())
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
