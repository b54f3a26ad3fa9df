"""A disk so small that it fills up quickly, and what gets to a disk."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.parts import program
from tests.kit.processes import run


@contextlib.contextmanager
def tiny_disk(path: Path, size: str = "64k") -> Iterator[Path]:
    """Mount a tmpfs of that size at `path`, for a test with `@needs("tmpfs")`."""
    path.mkdir(parents=True, exist_ok=True)
    options = f"size={size},mode=0700"
    done = run(program("mount"), "-t", "tmpfs", "-o", options, "tmpfs", str(path))
    assert done.returncode == 0, done.stderr
    try:
        yield path
    finally:
        run(program("umount"), "-l", str(path))


def fill(path: Path) -> Path:
    """Fill the disk of this folder with a file; return the file."""
    file = path / "filler"
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as out:
        while out.write(b"x" * 4096):
            pass
    return file


def flushed(patch: pytest.MonkeyPatch) -> list[Path]:
    """Return a list that gets each file and folder that is flushed to the disk from now on."""
    paths: list[Path] = []
    real = os.fsync

    def fsync(file: int) -> None:
        real(file)
        paths.append(Path(f"/proc/self/fd/{file}").readlink())

    patch.setattr(os, "fsync", fsync)
    return paths
