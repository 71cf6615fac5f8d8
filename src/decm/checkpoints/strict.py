"""Weights into a network, strictly: each key has its place and its shape, or the error names the ones that do not."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

SHOWN = 10  # items that an error lists
SET_NETWORK = "Set `network` to the one that these weights were trained with."


def shortened(items: Sequence[str], separator: str = ", ") -> str:
    """The first ten items, and how many more there are."""
    more = [f"and {len(items) - SHOWN} more"] if len(items) > SHOWN else []
    return separator.join([*items[:SHOWN], *more])


def mismatches(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """One line for each key that is missing, misshapen or unknown, with the shape found and the one expected."""
    lines = [
        f"{key}: found {tuple(found[key].shape) if key in found else 'nothing'}, expected {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key not in found or found[key].shape != tensor.shape
    ]
    return lines + [
        f"{key}: found {tuple(found[key].shape)}, expected no such key" for key in found if key not in expected
    ]


def no_advice() -> str:
    """Nothing to add to the keys that do not fit."""
    return ""


def load_strictly(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    source: str,
    optional: Callable[[str], bool] = lambda key: False,
    advice: Callable[[], str] = lambda: SET_NETWORK,
) -> None:
    """Load `weights`, which come from `source`, by name and shape; a key that is `optional` may be missing.

    Raises ValueError with the keys that do not fit, and `advice`, which is called then alone.
    """
    own = network.state_dict()
    kept = {key: value for key, value in own.items() if key not in weights and optional(key)}
    problems = mismatches({**weights, **kept}, own)
    if problems:
        listed = shortened(problems, "; ")
        raise ValueError(f"{source} does not fit the network ({len(problems)} keys): {listed}. {advice()}".rstrip())
    nn.Module.load_state_dict(network, {**weights, **kept})
