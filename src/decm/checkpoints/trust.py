"""Whose code a file of settings may name."""

import os

TRUSTED = ("decm.", "torch.optim.")


def trusted() -> list[str]:
    """The packages whose code a file may call; the environment variable DECM_TRUST names more, of one's own."""
    return [*TRUSTED, *(f"{name}." for name in os.environ.get("DECM_TRUST", "").split(",") if name)]
