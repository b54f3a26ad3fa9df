"""Makes changes survive a crash of the machine."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to disk, so that they survive a crash. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
