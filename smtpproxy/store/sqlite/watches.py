"""Detecting that the files of an open database were removed or replaced."""

import mmap
import os
from pathlib import Path

from smtpproxy.store.records import StoreUnavailable


class FileWatch:
    """Detects that the database file was removed, replaced or truncated.

    SQLite would continue with the file it has open, or crash on mapped pages that are gone.
    """

    __slots__ = ("_inode", "_path", "_size")

    def __init__(self, path: Path) -> None:
        found = path.stat()
        self._path = os.fsencode(path)
        self._inode = found.st_ino
        self._size = found.st_size

    def same(self) -> bool:
        """Return whether the file is still the same, and has not shrunk.

        Raises:
            OSError: it is gone.
        """
        found = os.stat(self._path)  # noqa: PTH116 - Path.stat takes twice as long
        if found.st_ino == self._inode and (size := found.st_size) >= self._size:
            self._size = size
            return True
        return False


class LogWatch:
    """Detects that the log of a database, or its index, was removed while in use.

    Then some processes see a commit and others do not, and what was in the log is lost. Create it
    after a first read, which creates the files. Once one was removed, the process has to end before
    it may read the database again.
    """

    __slots__ = ("_index", "_inodes", "_log", "_map", "_name")

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError if there is no log, as the database was never read."""
        self._name = path.name
        self._log, self._index = os.fsencode(f"{path}-wal"), os.fsencode(f"{path}-shm")
        self._inodes = self._found()
        self._map = _index(self._index)

    def check(self) -> None:
        """Raise StoreUnavailable if one was removed or replaced."""
        try:
            if self._found() == self._inodes:
                return
        except FileNotFoundError:
            pass
        raise LogRemoved(
            f"{self._name}-wal or -shm was removed while it was in use: writes may be lost."
            " Restore the database from the backup, or restart to continue with what is there"
        )

    def _found(self) -> tuple[int, int]:
        return os.stat(self._log).st_ino, os.stat(self._index).st_ino  # noqa: PTH116

    def state(self) -> bytes:
        """Return the header of the log's index, which every commit changes before it is
        acknowledged: it counts changes and frames (www.sqlite.org/walformat.html, 2.1).

        It is read without a lock; a half-written header differs from all earlier ones.
        """
        return self._map[:_INDEX_HEADER]


_INDEX_HEADER = 48
"""Octets of the first of its two copies, which is written last."""
_indexes: dict[tuple[int, int], tuple[int, mmap.mmap]] = {}


def _index(path: bytes) -> mmap.mmap:
    """Return the header of an index in shared memory, which stays open as long as the file exists.

    Closing any descriptor of a file releases all locks of the process on it (fcntl(2)), including
    SQLite's: others would then consider the index unused, and truncate it.
    """
    for key, (descriptor, _) in list(_indexes.items()):
        if os.fstat(descriptor).st_nlink == 0:  # a watcher of it keeps its map
            os.close(descriptor)
            del _indexes[key]
    found = os.stat(path)  # noqa: PTH116
    if (found.st_dev, found.st_ino) not in _indexes:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        found = os.fstat(descriptor)
        index = mmap.mmap(descriptor, _INDEX_HEADER, prot=mmap.PROT_READ)
        _indexes[found.st_dev, found.st_ino] = descriptor, index
    return _indexes[found.st_dev, found.st_ino][1]


class LogRemoved(StoreUnavailable):
    """The database cannot be trusted until an operator has checked it."""
