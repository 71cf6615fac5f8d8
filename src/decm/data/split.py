"""A training and a held-out part, class by class."""

from collections.abc import Sequence

import numpy as np

from decm.flow.randomness import permutation


def split_by_class(labels: Sequence[int], heldout: int, seed: int) -> tuple[list[int], list[int]]:
    """(training rows, held-out rows) of samples with these labels: each class gives its share of the `heldout` rows.

    A class keeps at least one row for training, and gives at least one of several rows where `heldout` is enough for
    all; what does not divide goes to the classes furthest below their share. Where the classes with several rows
    cannot give `heldout` rows, they give all but one each. Both parts are in the order of the permutation of `seed`.
    """
    order = permutation(seed, "split", 0, len(labels)).tolist()
    counts = np.bincount(np.asarray(labels, np.int64))
    given = _shares(counts, heldout)
    parts: tuple[list[int], list[int]] = ([], [])
    for row in order:
        label = labels[row]
        parts[int(given[label] > 0)].append(row)
        given[label] -= 1
    return parts


def _shares(counts: np.ndarray, heldout: int) -> np.ndarray:
    """Held-out rows of each class [K] of `counts` rows, `heldout` together where the classes have as many to give."""
    most = np.maximum(counts - 1, 0)
    share = counts * (heldout / max(1, counts.sum()))
    enough = (most > 0).sum() <= heldout
    given = np.clip(np.floor(share).astype(np.int64), np.minimum(most, 1) if enough else 0, most)
    while given.sum() != min(heldout, most.sum()):
        step = 1 if given.sum() < heldout else -1
        free = given < most if step > 0 else given > (1 if enough else 0)
        distance = np.where(free, step * (share - given), -np.inf)
        given[distance.argmax()] += step
    return given


def gaps(train_y: np.ndarray, heldout_y: np.ndarray, names: Sequence[str]) -> list[str]:
    """A sentence for each part that lacks some of the classes of these names, the class k being called names[k]."""
    sentences = []
    for part, labels in (("training", train_y), ("held-out", heldout_y)):
        missing = np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0).tolist()
        if missing:
            shown = ", ".join(names[k] for k in missing[:10]) + (", ..." if len(missing) > 10 else "")
            sentences.append(f"{len(missing)} of {len(names)} classes have no {part} picture: {shown}.")
    return sentences
