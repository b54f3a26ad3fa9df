"""Makes changes survive a crash of the machine. All functions raise OSError."""

import os
from pathlib import Path
from typing import IO, Any


def sync_path(path: Path) -> None:
    """Write the content of a file, or the names in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush(file: IO[Any]) -> None:
    """Write all that was written to a file to disk."""
    file.flush()
    os.fsync(file.fileno())
