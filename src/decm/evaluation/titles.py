"""Titles and explanations of the judges' figures, in a module of their own so that a table loads without torch."""

from collections.abc import Mapping
from typing import Any

TITLES = {
    "frechet_distance": "Frechet distance",
    "fd_lite0": "FD (Lite0)",
    "sliced_wasserstein": "sliced Wasserstein distance",
}


def is_weak(score: float, guess: float) -> bool:
    """Whether a classifier's accuracy is nearer to guessing than to 1, so that figures in its features say little."""
    return score < (1 + guess) / 2 and score < 1


def judge_note(results: Mapping[str, Any]) -> str:
    """How good the classifier is whose features are compared, wherever figures of theirs are shown; "" without one."""
    floor = results.get("floor") or {}
    if "heldout_accuracy" not in floor:
        return ""
    score, guess = floor["heldout_accuracy"], floor.get("guess_accuracy", 0.0)
    said = f"The classifier that judges is right on {score:.1%} of held-out images"
    return (
        f"{said} (the most frequent label, {guess:.1%}): its figures say little."
        if is_weak(score, guess)
        else f"{said}."
    )


PER_NFE = {
    "sfid": 3,
    "fdd": 3,
    "fd_heldout": 3,
    "is": 2,
    "kid": 5,
    "accuracy": 3,
    "precision": 3,
    "recall": 3,
    "memorized": 3,
}
