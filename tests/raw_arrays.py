"""Arrays of pictures and labels, as users have them, for `write_arrays`."""

import numpy as np

from decm.data.arrays import write_arrays

CLASSES = 3
NUM = {"train": 12, "heldout": 5}


def raw(shape=(2, 4, 4), classes=CLASSES):
    """Pixels that are multiples of 1/255, so that uint8 holds them too, and labels; numpy arrays."""
    rng = np.random.default_rng(0)
    x = {f"{key}_x": (rng.integers(0, 256, (num, *shape)) / 255).astype(np.float32) for key, num in NUM.items()}
    return {**x, **{f"{key}_y": np.arange(num) % max(1, classes) for key, num in NUM.items()}}


def write(path, arrays, classes=CLASSES):
    return write_arrays(path, arrays, "raw", classes, "a test")


def each(convert, key="x"):
    return {name: convert(value) if name.endswith(key) else value for name, value in raw().items()}
