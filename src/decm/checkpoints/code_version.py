"""The version of the code, which every file that it writes carries."""

import subprocess
from pathlib import Path

from decm import __version__


def code_version() -> str:
    """The package's version, and the commit where there is a checkout."""
    try:
        git = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
        return f"{__version__}+{git.stdout.strip()}"
    except (OSError, subprocess.SubprocessError):
        return __version__
