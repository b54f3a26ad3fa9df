"""A disk so small that it fills up quickly."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

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
