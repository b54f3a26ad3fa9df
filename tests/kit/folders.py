"""Folders for servers whose users may not enter pytest's; none stays for good."""

import os
import shutil
import socket
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path


def server_folder(server: str) -> Path:
    """Make a folder; the caller removes it, or the next caller after a killed run."""
    return Path(tempfile.mkdtemp(prefix=f"smtpproxy-{server}-{_owner()}-"))


@lru_cache(maxsize=1)
def _owner() -> str:
    """This process's name in those of its folders, which shows others that it is alive."""
    _remove_ownerless()
    name = os.urandom(4).hex()
    _locks.append(_lock(name))
    return name


_locks: list[socket.socket] = []


def _lock(name: str) -> socket.socket:
    """An abstract socket, which ends with its process; raises OSError while it is taken."""
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
