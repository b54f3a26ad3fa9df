"""How commands talk to a running relay: over a socket that only its user and root can reach."""

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import structlog

from smtpproxy.disk import lock
from smtpproxy.process.children import SLOWEST_START
from smtpproxy.process.listening import answers
from smtpproxy.sinks.snapshots import Snapshot

NAME = "control"
_LENGTH = 4
_LONGEST = 16 * 1024 * 1024
_AFTER_TROUBLE = 1.0  # seconds
_MAX_SOCKETS = 250  # that fit into one message of the kernel
_ENDED = "the relay ended before it answered: see its log"

log = structlog.get_logger()


class Reload(msgspec.Struct, frozen=True, tag=True):
    """Read the settings again. The answer comes when that has succeeded or was undone."""


class Status(msgspec.Struct, frozen=True, tag=True):
    """Return the relay's state."""


class HandOver(msgspec.Struct, frozen=True, tag=True):
    """Give the listening sockets to another process, which sends StepDown once it works."""


class StepDown(msgspec.Struct, frozen=True, tag=True):
    """Another process has taken over: drain and end."""


Request = Reload | Status | HandOver | StepDown


class Response(msgspec.Struct, frozen=True):
    """`faults`: why it was not done. `told`: settings and the like. Sockets come with it."""

    faults: list[str] = []
    told: dict[str, Any] = {}
    snapshot: Snapshot = Snapshot()


Answer = tuple[Response, list[socket.socket]]
_decode_request = msgspec.msgpack.Decoder(Request).decode
_decode_response = msgspec.msgpack.Decoder(Response).decode


class NotRunning(Exception):
    """No relay answers for this `state_dir`."""

    exit_code = 1


class Control:
    """Answers commands, one connection per request."""

    def __init__(self, state_dir: Path, answer: Callable[[Request], Awaitable[Answer]]) -> None:
        self._state_dir = state_dir
        self._answer = answer
        self._listening: socket.socket | None = None
        self._accepting: asyncio.Task[None]
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Listen, unless another relay already does so for this state_dir."""
        with _path(self._state_dir, os.O_RDONLY) as (path, folder):
            lock(
                folder, self._state_dir, fcntl.LOCK_EX
            )  # of relays that start together, only one listens
            if answers(path):
                log.warning("another relay is controlled here", state_dir=str(self._state_dir))
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108
            self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listening.setblocking(False)
            mask = os.umask(0o177)
            try:
                self._listening.bind(path)
            finally:
                os.umask(mask)
            self._listening.listen(16)
        self._accepting = asyncio.create_task(self._accept(self._listening))

    def leave(self) -> None:
        """Accept no further requests, so that another relay may listen here."""
        if self._listening is not None:
            self._accepting.cancel()
            (self._state_dir / NAME).unlink(missing_ok=True)  # once closed, it may be another's
            self._listening.close()
            self._listening = None

    async def close(self) -> None:
        """Stop answering, after the current answers."""
        self.leave()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:  # no file descriptor is free: the command waits
                log.error("commands wait", error=str(error))
                await asyncio.sleep(_AFTER_TROUBLE)
                continue
            task = asyncio.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with connection:
            try:
                async with asyncio.timeout(5.0):
                    request = _decode_request(await _received(connection))
                response, sockets = await self._answer(request)
                data = msgspec.msgpack.encode(response)
                head = len(data).to_bytes(_LENGTH, "big")
                files = [sock.fileno() for sock in sockets[:_MAX_SOCKETS]]
                socket.send_fds(connection, [head], files)
                await loop.sock_sendall(connection, data)
            except (OSError, EOFError, TimeoutError, msgspec.DecodeError) as error:
                log.warning("a command was not answered", error=str(error))


async def _received(connection: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < _LENGTH or len(data) < _LENGTH + int.from_bytes(data[:_LENGTH], "big"):
        more = await loop.sock_recv(connection, 65536)
        if not more or len(data) > 65536:
            raise EOFError("no complete request")
        data += more
    return data[_LENGTH:]


RELOADS_WITHIN = SLOWEST_START + 60.0
"""Seconds until a reload is done, or was undone."""


def ask(state_dir: Path, request: Request, timeout: float = 120.0) -> Answer:
    """Ask the relay of this state_dir. Raises NotRunning, OSError (a TimeoutError too)."""
    try:
        return _asked(state_dir, request, timeout)
    except (BrokenPipeError, ConnectionResetError):
        raise NotRunning(_ENDED) from None
    except OSError as error:
        if error.filename is not None:
            raise
        text = error.strerror or "the relay has not answered in time: see its log"
        where = str(state_dir / NAME)
        raise OSError(error.errno or errno.ETIMEDOUT, text, where) from error


def _asked(state_dir: Path, request: Request, timeout: float) -> Answer:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            with _path(state_dir) as (path, _):
                connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotRunning(f"no relay runs with server.state_dir = {state_dir}") from None
        data = msgspec.msgpack.encode(request)
        connection.sendall(len(data).to_bytes(_LENGTH, "big") + data)
        head, files, _, _ = socket.recv_fds(connection, _LENGTH, _MAX_SOCKETS)
        sockets = [socket.socket(fileno=number) for number in files]
        size = int.from_bytes(head, "big")
        answer = b""
        while head and len(answer) < min(size, _LONGEST):
            more = connection.recv(65536)
            if not more:
                break
            answer += more
        if len(head) < _LENGTH or len(answer) < size:
            raise NotRunning(_ENDED)
    for sock in sockets:
        sock.setblocking(False)
    return _decode_response(answer), sockets


@contextmanager
def _path(state_dir: Path, access: int = os.O_PATH) -> Iterator[tuple[str, int]]:
    """Yield the socket's path, within 107 octets however deep the folder is (unix(7)).

    With it comes the folder's descriptor, open for `access`.
    """
    folder = os.open(state_dir, access | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{NAME}", folder
    finally:
        os.close(folder)
