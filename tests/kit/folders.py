"""Folders of servers that run as users to whom pytest's are closed; none stays for good."""

import os
import shutil
import socket
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path


def server_folder(server: str) -> Path:
    """Make a folder, which the caller removes, or after a killed run the next one that calls."""
    return Path(tempfile.mkdtemp(prefix=f"smtpproxy-{server}-{_owner()}-"))


@lru_cache(maxsize=1)
def _owner() -> str:
    """The name of this process in those of its folders, by which others see that it lives."""
    _remove_ownerless()
    name = os.urandom(4).hex()
    _locks.append(_lock(name))
    return name


_locks: list[socket.socket] = []


def _lock(name: str) -> socket.socket:
    """An abstract socket, which ends with its process; raises OSError while somebody has it."""
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind(f"\0smtpproxy-test-folder-{name}")
    except OSError:
        lock.close()
        raise
    return lock


def _remove_ownerless() -> None:
    for folder in Path(tempfile.gettempdir()).glob("smtpproxy-*-????????-*"):
        with suppress(OSError), _lock(folder.name.split("-")[2]):
            shutil.rmtree(folder, ignore_errors=True)
