"""Whose code a file of settings may name."""

import os

TRUSTED = ("decm.", "torch.optim.")
RENAMED = {  # constructors that the settings of earlier runs name
    "decm.experiment.protocols.digit_images": "decm.protocols.pictures.digit_images",
    "decm.experiment.protocols.exact_points": "decm.protocols.points.exact_points",
    "decm.experiment.protocols_images.image_statistics": "decm.protocols.images.image_statistics",
}


def trusted() -> list[str]:
    """The packages whose code a file may call; the environment variable DECM_TRUST names more, of one's own."""
    return [*TRUSTED, *(f"{name}." for name in os.environ.get("DECM_TRUST", "").split(",") if name)]
