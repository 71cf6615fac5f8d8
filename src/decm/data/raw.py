"""Data as they are handed over, arrays of any kind, as float32 pictures in [0, 1] and int64 labels."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

PICTURE_CHANNELS = (1, 3, 4)  # gray, RGB, RGBA
LATENT_CHANNELS = (4, 8, 16, 32)  # of the usual autoencoders
LARGEST_LABEL = 10**9 - 1  # what is beyond it is no label
ROUNDING, NEARLY = 1e-5, 0.1  # beyond [0, 1]: what resizing in float32 leaves; what is no other range


def as_array(value: Any, what: str) -> np.ndarray:
    """A tensor or array as a numpy array in the machine's byte order, not copied where that can be avoided.

    Raises ValueError, which begins with `what`, for anything else and for an array with masked values.
    """
    if isinstance(value, Tensor):
        narrow = value.is_floating_point() and value.dtype not in (torch.float16, torch.float32, torch.float64)
        try:
            value = value.detach().cpu()
            value = (value.float() if narrow else value.resolve_conj()).numpy()  # numpy has no bfloat16
        except (TypeError, RuntimeError) as error:
            raise ValueError(f"{what} is a tensor of {value.dtype} that cannot be read ({error}).") from error
    if not isinstance(value, np.ndarray):
        raise ValueError(f"{what} is of type {type(value).__name__}; expected a tensor or a numpy array.")
    if np.ma.is_masked(value):
        raise ValueError(f"{what} has masked values. Fill or remove them.")
    return np.asarray(value, value.dtype.newbyteorder("="))


def integer_labels(labels: Any, what: str, num_classes: int | None = None) -> np.ndarray:
    """Labels [N] int64 of an array [N] or [N, 1] of whole numbers, of whatever type.

    `num_classes` are those that there are (0: unconditional, every label is 0); None: as many as are found.
    Raises ValueError, which begins with `what`, for other shapes, fractions, texts, NaN and labels that are no class.
    """
    values = as_array(labels, what)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        one_hot = values.ndim == 2 and values.dtype.kind in "biuf" and bool(np.all(values.sum(1) == 1))
        advice = " These are one-hot rows: pass their argmax(1)." if one_hot else ""
        raise ValueError(f"{what} has the shape {list(values.shape)}; expected [N], a number a sample.{advice}")
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{what} is of type {values.dtype}; expected whole numbers, the first class is 0.")
    if values.dtype.kind == "f":
        values = values.astype(np.float64)
    highest = LARGEST_LABEL if num_classes is None else max(1, num_classes) - 1
    wrong = ~np.isfinite(values) | (values != np.rint(values)) | (values < 0) | (values > highest)
    if wrong.any():
        expected = f"0 to {highest}"
        raise ValueError(
            f"{what}: label {int(wrong.argmax())} is {values[wrong.argmax()]}; expected whole numbers, {expected} "
            f"({'num_classes' if num_classes is not None else 'the first class is 0'})."
        )
    return values.astype(np.int64)


def check_layout(shape: Sequence[int], what: str, channels: Collection[int]) -> None:
    """Raise ValueError unless `shape` is [N, C, H, W]; also where it looks like [N, H, W, C].

    That is where the last side is a usual number of channels, and either the first two are equal and it is not, or the
    first is more than a picture's channels and the last two are not equal.
    """
    if len(shape) != 4:
        advice = " Gray pictures [N, H, W] become that by x[:, None]." if len(shape) == 3 else ""
        raise ValueError(f"{what} has the shape {list(shape)}; expected [N, C, H, W].{advice}")
    _, a, b, c = shape
    square_first = a > 1 and a == b != c
    if c in channels and (square_first or (a > max(PICTURE_CHANNELS) and a not in channels and b != c)):
        raise ValueError(
            f"{what} has the shape {list(shape)}, which looks like [N, H, W, C]; expected [N, C, H, W]. Pass "
            "x.permute(0, 3, 1, 2) of a tensor, x.transpose(0, 3, 1, 2) of a numpy array."
        )


def raw_pictures(arrays: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Tensor]:
    """Pictures [N, C, H, W] float32 in [0, 1] of floats in [0, 1], or of uint8 pixels 0 to 255, one kind in all parts.

    Raises ValueError, which names the part, for other types, shapes and values, for an empty part, and for parts of
    different types or sizes.
    """
    found = {key: as_array(arrays[key], key) for key in keys}
    for key, values in found.items():
        check_layout(values.shape, key, PICTURE_CHANNELS)
        if not values.size:
            raise ValueError(f"{key} has the shape {list(values.shape)}; expected at least one picture, not empty.")
        if values.dtype.kind != "f" and values.dtype != np.uint8:
            raise ValueError(f"{key} is of type {values.dtype}; expected floats in [0, 1], or uint8 pixels 0 to 255.")
    for name, kinds in (
        ("types", {key: "uint8" if values.dtype == np.uint8 else "float" for key, values in found.items()}),
        ("shapes", {key: values.shape[1:] for key, values in found.items()}),
    ):
        if len(set(kinds.values())) > 1:
            raise ValueError(f"Found pictures of different {name}, {kinds}; expected the same in both parts.")
    if all(values.dtype == np.uint8 for values in found.values()):
        if max(int(values.max()) for values in found.values()) <= 1:
            raise ValueError(
                f"{', '.join(keys)} are uint8 and at most 1, which may be a mask or black pictures; expected pixels "
                "0 to 255. Pass them as floats in [0, 1], or times 255."
            )
        return {key: torch.from_numpy(values.astype(np.float32, order="C")) / 255 for key, values in found.items()}
    for key, values in found.items():
        _check_values(key, values)
    return {
        key: torch.from_numpy(np.array(values, np.float32, order="C")).clamp_(0, 1)  # off by rounding at most
        for key, values in found.items()
    }


def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (of a sample; 1 where constant) per channel of x [N, C, H, W], float32 [C] each.

    Summed in float64 by numpy: torch's sums depend on the number of threads, and the content hash with them.
    """
    rows, count = x.numpy(), x[:, 0].numel()
    mean = rows.mean((0, 2, 3), dtype=np.float64)
    parts = np.array_split(rows, len(rows) // 256 + 1)  # float64 copies of a few pictures at a time
    squares = sum(np.square(part - mean[:, None, None]).sum((0, 2, 3)) for part in parts)
    std = np.sqrt(squares / max(1, count - 1))
    return torch.from_numpy(mean).float(), torch.from_numpy(np.where(std < 1e-6, 1.0, std)).float()


def _check_values(key: str, values: np.ndarray) -> None:
    finite = np.isfinite(values).all((1, 2, 3))
    if not finite.all():
        raise ValueError(
            f"{key}: {int((~finite).sum())} of {len(values)} pictures have values that are not finite, the first is "
            f"number {int((~finite).argmax())}. Mend or remove them."
        )
    low, high = float(values.min()), float(values.max())
    if low < -ROUNDING or high > 1 + ROUNDING:
        advice = "Divide by 255, or pass pixels 0 to 255 as uint8." if low >= 0 else "Map -1 .. 1 by (x + 1) / 2."
        if low > -NEARLY and high < 1 + NEARLY:
            advice = "Clip them to [0, 1], where that is what they are."
        raise ValueError(f"{key} lies in [{low:.6g}, {high:.6g}]; expected raw images in [0, 1]. {advice}")
