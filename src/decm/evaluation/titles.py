"""Titles and explanations of the judges' figures, in a module of their own so that a table loads without torch."""

TITLES = {"frechet_distance": "Frechet distance", "sliced_wasserstein": "sliced Wasserstein distance"}


def is_weak(score: float, guess: float) -> bool:
    """Whether a classifier's accuracy is nearer to guessing than to 1, so that figures in its features say little."""
    return score < (1 + guess) / 2 and score < 1


PER_NFE = {
    "sfid": 3,
    "fdd": 3,
    "is": 2,
    "kid": 5,
    "accuracy": 3,
    "precision": 3,
    "recall": 3,
    "memorized": 3,
}
