"""A load generator for what smtp-source cannot do: TLS, AUTH, BDAT.

It uses blocking sockets in threads of several processes, which in Python costs the least CPU
time per message. Its own ceiling is measured too (`ways`).
"""

import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context

PROCESSES = 2
SESSIONS = 20
USER = "bench"

_ENVELOPE = b"MAIL FROM:<a@shop.example>\r\nRCPT TO:<b@people.example>\r\n"
_CONTENT = b"From: a@shop.example\r\nSubject: x\r\n\r\n" + (b"y" * 76 + b"\r\n") * 52
_CHUNKED = _ENVELOPE + f"BDAT {len(_CONTENT)} LAST\r\n".encode() + _CONTENT
_LOGIN = b"AUTH PLAIN " + b64encode(f"\0{USER}\0{USER}".encode()) + b"\r\n"


@dataclass(frozen=True, slots=True)
class Way:
    """How messages of 4 KB are sent; `ca` is the root certificate file for the server."""

    port: int
    ca: str | None = None
    login: bool = False
    lmtp: bool = False
    chunked: bool = False


@contextmanager
def generators() -> Iterator[ProcessPoolExecutor]:
    """The generator processes, started before anything is measured."""
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        list(pool.map(abs, range(PROCESSES)))
        yield pool


def generate(pool: ProcessPoolExecutor, way: Way, each: int, seconds: float) -> tuple[int, float]:
    """Send for that long, `each` messages per connection; return (messages, messages/s)."""
    work = [
        pool.submit(_process, way, each, seconds, SESSIONS // PROCESSES) for _ in range(PROCESSES)
    ]
    results = [future.result(timeout=seconds + 60) for future in work]
    return sum(sent for sent, _ in results), sum(sent / took for sent, took in results)


def _process(way: Way, each: int, seconds: float, sessions: int) -> tuple[int, float]:
    context = None if way.ca is None else ssl.create_default_context(cafile=way.ca)
    sent = [0] * sessions
    failures: list[Exception] = []
    began = time.perf_counter()

    def send(number: int) -> None:
        try:
            while time.perf_counter() - began < seconds and not failures:
                _Client(way, context).session(way, each)
                sent[number] += each
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(sent), time.perf_counter() - began


class _Client:
    def __init__(self, way: Way, context: ssl.SSLContext | None) -> None:
        self._socket = socket.create_connection(("127.0.0.1", way.port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            self._socket = context.wrap_socket(self._socket, server_hostname="localhost")
        self._buffer = b""

    def session(self, way: Way, each: int) -> None:
        with self._socket:
            self._expect(b"220")
            self._say((b"LHLO" if way.lmtp else b"EHLO") + b" client.example\r\n", b"250")
            if way.login:
                self._say(_LOGIN, b"235")
            for _ in range(each):
                if way.chunked:
                    self._say(_CHUNKED, b"250", b"250", b"250")
                else:
                    self._say(_ENVELOPE + b"DATA\r\n", b"250", b"250", b"354")
                    self._say(_CONTENT + b".\r\n", b"250")
            self._say(b"QUIT\r\n", b"221")

    def _say(self, data: bytes, *codes: bytes) -> None:
        self._socket.sendall(data)
        self._expect(*codes)

    def _expect(self, *codes: bytes) -> None:
        """Read a reply for each code; raise RuntimeError if one differs."""
        for code in codes:
            while True:
                line, found, rest = self._buffer.partition(b"\n")
                if not found:
                    data = self._socket.recv(65_536)
                    if not data:
                        raise RuntimeError(f"closed instead of {code!r}")
                    self._buffer += data
                    continue
                self._buffer = rest
                if line[3:4] != b"-":
                    break
            if not line.startswith(code):
                raise RuntimeError(f"{line!r} instead of {code!r}")
