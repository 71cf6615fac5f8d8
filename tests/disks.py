"""Small file systems, to fill up."""

import os
import subprocess
from contextlib import contextmanager

from browser import skip


@contextmanager
def mounted(place, megabytes):
    """A file system of that size at the folder `place`; tests are skipped where none can be mounted."""
    if os.geteuid() != 0:
        skip("Only root can mount the small file system that this test fills.")
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", place]
    if subprocess.run(command, capture_output=True).returncode:
        skip("This machine does not allow to mount the small file system that this test fills.")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
