"""The type of settings that are paths; see words.py."""

from typing import Annotated

PathText = Annotated[str, "path"]  # a str to OmegaConf; the command line takes any text for it
