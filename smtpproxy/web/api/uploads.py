"""Receives a file with a request: written to disk as it arrives, never whole in memory."""

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from starlette.requests import Request

from smtpproxy.store.import_jobs import private
from smtpproxy.web.api.problems import Refused

LARGEST_FILE = 2 * 1024**3
"""Octets of an upload."""

RESERVE = 512 * 1024**2
"""Octets to keep free on the disk, which also holds the audit log."""

_AT_ONCE = 1024 * 1024  # octets
EXTEND_TIME = "smtpproxy.patience"
"""The ASGI scope extension that extends the server's time limit for a body."""


async def receive_file(request: Request, path: Path) -> str:
    """Write the body of a request to a new file; return its SHA-256.

    The time limit starts again with every MiB received.

    Raises Refused, ClientDisconnect, OSError.
    """
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length[:20]) > LARGEST_FILE:
        raise _too_large()
    extend_time: Callable[[], None] = request.scope.get("extensions", {}).get(
        EXTEND_TIME, lambda: None
    )
    digest, size, pending = hashlib.sha256(), 0, bytearray()

    def write() -> None:
        found = os.fstatvfs(file.fileno())
        if found.f_bavail * found.f_frsize < RESERVE + len(pending):
            raise Refused("disk_full", "there is no room for the file; tell the operator")
        digest.update(pending)
        file.write(pending)
        pending.clear()

    with await asyncio.to_thread(open, path, "xb", opener=private) as file:
        async for chunk in request.stream():
            pending += chunk
            size += len(chunk)
            if size > LARGEST_FILE:
                raise _too_large()
            if len(pending) >= _AT_ONCE:
                await asyncio.to_thread(write)
                extend_time()
        await asyncio.to_thread(write)
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
    return digest.hexdigest()


def _too_large() -> Refused:
    return Refused("too_large", f"a file has at most {LARGEST_FILE} octets")
