"""Processes that make a worker's RSA signatures.

A thread that signs competes with the event loop for Python's lock, which costs more than a second
process: docs/adr/0012-dkim.md.
"""

import asyncio
import os
import signal
import socket
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import structlog

from smtpproxy.process.nursery import leave_files, set_process_name
from smtpproxy.relay.dkim_signing import GOOD_BITS, Keyring, SigningKey

_AT_ONCE = 64  # requests to a process: more might not fit into its socket
_MOST = 4  # processes, for large keys
_LONGEST = 4096  # octets of an answer
_LATE = 5.0  # seconds
_DONE, _FAILED = b"\0", b"\1"  # the first octet of an answer

log = structlog.get_logger()


class SigningProcesses:
    """Sign with the RSA keys of a keyring. Create them before there is a loop or a thread."""

    def __init__(self, keyring: Keyring, worker: int, processors: int) -> None:
        """Fork as many as these keys can use of a worker's `processors`; none if no key is RSA."""
        self.keyring = keyring
        keys = [key for key in keyring.keys if key.record.key_type == "rsa"]
        self._numbers = {key: number for number, key in enumerate(keys)}
        large = any(key.bits > GOOD_BITS for key in keys)
        count = min(processors, _MOST if large else 1) if keys else 0
        self._processes = [_Process(keys, worker) for _ in range(count)]

    def open(self) -> None:
        """Take answers on the running loop."""
        for each in self._processes:
            each.open()

    async def sign(self, key: SigningKey, digest: bytes) -> bytes:
        """Sign the SHA-256 of something. Raises OSError if the process has failed.

        Once no process is left, a thread signs.
        """
        alive = [each for each in self._processes if each.alive]
        if not alive:
            return await asyncio.to_thread(key.sign, digest)
        return await min(alive, key=lambda each: each.pending).sign(self._numbers[key], digest)

    def close(self) -> None:
        for each in self._processes:
            each.close()


class _Process:
    """One of them, as its worker sees it: digests go in, signatures come out in the same order."""

    def __init__(self, keys: Sequence[SigningKey], worker: int) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if not self._pid:
            _sign(theirs, keys, worker)
        theirs.close()
        self._socket.setblocking(False)
        self.alive = True
        self._queued: deque[tuple[bytes, asyncio.Future[bytes]]] = deque()
        self._asked: deque[asyncio.Future[bytes]] = deque()
        self._watch: asyncio.TimerHandle | None = None

    @property
    def pending(self) -> int:
        return len(self._queued) + len(self._asked)

    def open(self) -> None:
        asyncio.get_running_loop().add_reader(self._socket, self._answered)

    def sign(self, number: int, digest: bytes) -> asyncio.Future[bytes]:
        signature: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._queued.append((number.to_bytes(2) + digest, signature))
        self._ask()
        return signature

    def close(self) -> None:
        if self.alive:
            self._end(OSError("the worker is ending"))

    def _ask(self) -> None:
        while self._queued and len(self._asked) < _AT_ONCE:
            request, signature = self._queued.popleft()
            if signature.done():  # its message was abandoned
                continue
            self._asked.append(signature)
            if self._watch is None:
                self._watch = asyncio.get_running_loop().call_later(_LATE, self._check)
            try:
                self._socket.send(request)
            except OSError as error:
                self._lost(error)

    def _answered(self) -> None:
        try:
            answer = self._socket.recv(_LONGEST)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(error)
            return
        if not answer:
            self._lost(OSError("the signing process has ended"))
            return
        signature = self._asked.popleft()
        if not signature.done():
            if answer.startswith(_DONE):
                signature.set_result(answer[1:])
            else:
                signature.set_exception(OSError(answer[1:].decode()))
        self._ask()

    def _check(self, before: asyncio.Future[bytes] | None = None) -> None:
        """Give up on the process if it has answered nothing since `before` was the first to
        wait."""
        self._watch = None
        first = self._asked[0] if self._asked else None
        if first is not None and first is before:
            self._lost(OSError("the signing process does not answer"))
        elif first is not None:
            self._watch = asyncio.get_running_loop().call_later(_LATE, self._check, first)

    def _lost(self, error: OSError) -> None:
        self._end(error)
        log.error("child ended", child="signing", outcome="the worker signs without it")

    def _end(self, error: OSError) -> None:
        self.alive = False
        if self._watch is not None:
            self._watch.cancel()
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        for signature in (*self._asked, *(each for _, each in self._queued)):
            if not signature.done():
                signature.set_exception(error)
        self._asked.clear()
        self._queued.clear()
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def _sign(sock: socket.socket, keys: Sequence[SigningKey], worker: int) -> NoReturn:
    """Answer the worker at the other end of the socket until it is gone."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the worker decides when to end
        leave_files(sock)
        set_process_name(f"signing-{worker}")
        while request := sock.recv(_LONGEST):
            try:
                answer = _DONE + keys[int.from_bytes(request[:2])].sign(request[2:])
            except Exception as error:
                answer = _FAILED + f"{type(error).__name__}: {error}".encode()[: _LONGEST - 1]
            sock.send(answer)
    except OSError:
        pass  # the worker is gone
    finally:
        os._exit(0)
