"""What notices that files of a database are not those any more that are open."""

import mmap
import os
from pathlib import Path

from smtpproxy.store.protocols import StoreUnavailable


class FileWatch:
    """Notices that the database file was removed, replaced or cut short.

    SQLite would go on with the file it has open, or die of a map that lost its pages.
    """

    __slots__ = ("_inode", "_path", "_size")

    def __init__(self, path: Path) -> None:
        found = path.stat()
        self._path = str(path)
        self._inode = found.st_ino
        self._size = found.st_size

    def same(self) -> bool:
        """Tell whether the file is still the one it was at first, and no shorter than ever.

        Raises:
            OSError: it is gone.
        """
        found = os.stat(self._path)  # noqa: PTH116 - Path.stat takes twice as long
        if found.st_ino == self._inode and (size := found.st_size) >= self._size:
            self._size = size
            return True
        return False


class LogWatch:
    """Notices that the log of a database, or its index, was removed while it is in use.

    What is committed then is seen by some processes and not by others, and what was in the log is
    lost. Make it after a first read, which makes the files; the process that made it has to end
    before the database is read again.
    """

    __slots__ = ("_index", "_inodes", "_log", "_map", "_name")

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError where there is no log: the database was never read."""
        self._name = path.name
        self._log, self._index = f"{path}-wal", f"{path}-shm"
        self._inodes = self._found()
        self._map = _index(self._index)

    def check(self) -> None:
        """Raise StoreUnavailable when one was removed or replaced."""
        try:
            if self._found() == self._inodes:
                return
        except FileNotFoundError:
            pass
        raise LogRemoved(
            f"{self._name}-wal or -shm was removed while it was in use: writes may be lost."
            " Restore the database from the backup, or restart to go on with what is there"
        )

    def _found(self) -> tuple[int, int]:
        return os.stat(self._log).st_ino, os.stat(self._index).st_ino  # noqa: PTH116

    def state(self) -> bytes:
        """The header of the log's index, which every commit has changed before it is acknowledged:
        it counts the changes and the frames of the log (www.sqlite.org/walformat.html, 2.1).

        It is read without a lock. What is half written differs from all that was there before.
        """
        return self._map[:_INDEX_HEADER]


_INDEX_HEADER = 48
"""Octets of the first of its two copies; it is written last."""
_indexes: dict[tuple[int, int], tuple[int, mmap.mmap]] = {}


def _index(path: str) -> mmap.mmap:
    """Return the header of an index in shared memory. It is kept while the file is there.

    To close any descriptor of a file gives up all locks of the process on it (fcntl(2)), those of
    SQLite as well: then others take the index for unused, and truncate it.
    """
    for key, (descriptor, _) in list(_indexes.items()):
        if os.fstat(descriptor).st_nlink == 0:  # whoever watches it still has the map
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
    """What the database says cannot be trusted until people have looked at it."""
