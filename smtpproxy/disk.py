"""Files that survive a crash of the machine, and that the relay can read."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

_LITTLE = 64 * 1024 * 1024  # octets of a disk


def read_fault(path: Path, error: OSError) -> str:
    """Return why the relay cannot read a file that it needs, and how to fix it."""
    text = f"{path} cannot be read: {error.strerror}"
    if isinstance(error, PermissionError):
        text += "; it has to belong to the user that smtpproxy runs as"
    return text


def little_left(folder: Path) -> str | None:
    """Return how little room is left on the disk of a folder; None if that is enough, or unknown.

    Audit log and store write little at a time, but always.
    """
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    if found.f_files and not found.f_favail:  # Btrfs has no limit, and reports 0 of 0
        return f"no inodes left on the disk of {folder}"
    free = found.f_bavail * found.f_frsize
    return f"{free / 1e6:.0f} MB left on the disk of {folder}" if free < _LITTLE else None


def exists(path: Path) -> bool:
    """Whether there is something at this path. Raises OSError where nobody can tell.

    `Path.exists` and its like say no to that since Python 3.14, and what cannot be read would count
    as missing.
    """
    return _mode(path) is not None


def is_dir(path: Path) -> bool:
    """Whether there is a folder at this path. Raises OSError as `exists` does."""
    mode = _mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def is_file(path: Path) -> bool:
    """Whether there is a regular file at this path. Raises OSError as `exists` does."""
    mode = _mode(path)
    return mode is not None and stat.S_ISREG(mode)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except ValueError:  # no path has such octets
        return None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def sync_path(path: Path) -> None:
    """Write the content of a file, or the names in a folder, to disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush(file: IO[Any]) -> None:
    """Write all that was written to a file to disk. Raises OSError."""
    file.flush()
    os.fsync(file.fileno())


def give_to_owner_of(other: Path, file: Path | int) -> None:
    """Give a file that root creates to the owner of another, or of a folder: the relay's user."""
    if os.geteuid() == 0:
        owner = other.stat()
        os.chown(file, owner.st_uid, owner.st_gid)


def make_file(path: Path) -> None:
    """Create an empty file, if there is none, that only its owner can read."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        give_to_owner_of(path.parent, path)


def lock(file: int, path: Path, kind: int) -> None:
    """Lock an open file. Raises BlockingIOError, and OSError where its disk has no locks."""
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        raise
    except OSError as error:
        why = f"it cannot be locked ({error.strerror}); it has to be on a local disk, not NFS"
        raise OSError(error.errno, why, str(path)) from error


@contextmanager
def locked(
    path: Path, busy: Exception | None, *, makes: bool = False, shared: bool = False
) -> Iterator[None]:
    """Hold the lock of a folder, or, with `makes`, of a file that may not exist yet.

    Raises `busy` if another process has the lock, or waits if that is None; OSError.
    """
    flags = os.O_RDWR | os.O_CREAT if makes else os.O_RDONLY | os.O_DIRECTORY
    handle = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        if makes:
            give_to_owner_of(path.parent, handle)
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            lock(handle, path, kind if busy is None else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            assert busy is not None
            raise busy from None
        yield
    finally:
        os.close(handle)
