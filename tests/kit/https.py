"""A small HTTPS server on loopback that answers each method as a test says."""

import contextlib
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from tests.kit.certificates import Pair
from tests.kit.ports import LOOPBACK


class HttpsServer:
    """`answers` has a status for each method, `location` is for redirects; `asked` has the
    requests so far, as `(method, path, host, body)`."""

    def __init__(self, pair: Pair, **answers: int) -> None:
        self.answers = answers
        self.location = "https://elsewhere.example/"
        self.asked: list[tuple[str, str, str, bytes]] = []
        self._server = ThreadingHTTPServer((LOOPBACK, 0), _handler(self))
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def _handler(owner: HttpsServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["content-length"])))

        def _answer(self, body: bytes) -> None:
            owner.asked.append((self.command, self.path, self.headers["host"], body))
            status = owner.answers[self.command]
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("location", owner.location)
            self.send_header("content-length", "0")
            self.end_headers()

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # a client that does not trust us disconnects
                super().handle()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
