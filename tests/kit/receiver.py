"""A receiver of webhooks: real HTTPS on loopback, with a certificate from its own CA."""

import base64
import contextlib
import hmac
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.kit.certificates import Authority
from tests.kit.ports import LOOPBACK, wait_for

SECRET = b"a secret of twenty-four octets or more"
SECRET_LINE = "whsec_" + base64.b64encode(SECRET).decode()


class Delivery(Struct, frozen=True):
    """One request as received."""

    id: str
    timestamp: int
    signature: str
    body: bytes
    path: str

    @property
    def changes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.body)["data"]["changes"]
        return found

    @property
    def signed(self) -> bool:
        """Whether the signature is valid, verified as in the specification."""
        text = f"{self.id}.{self.timestamp}.".encode() + self.body
        right = base64.b64encode(hmac.digest(SECRET, text, "sha256")).decode()
        return f"v1,{right}" in self.signature.split(" ")


class Say(Struct, frozen=True):
    """An answer; `hold` waits for `Receiver.release` first, `drip` never ends it."""

    status: int = 204
    headers: tuple[tuple[str, str], ...] = ()
    hold: bool = False
    drip: bool = False


class Receiver:
    """Runs in threads until closed. `answers` chooses the answer to the newest delivery."""

    def __init__(self, folder: Path) -> None:
        self.deliveries: list[Delivery] = []
        self.answer: Callable[[Delivery], Say] = lambda delivery: Say()
        self.release = threading.Event()
        authority = Authority(folder)
        self.ca_file, pair = authority.path, authority.issue("receiver")
        self.secret_file = folder / "webhook.secret"
        self.secret_file.write_text(SECRET_LINE + "\n")
        self.secret_file.chmod(0o600)
        self._server = ThreadingHTTPServer((LOOPBACK, 0), _handler(self))
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        # The handler's thread does the handshake: a slow client must not stop others.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"https://{LOOPBACK}:{self.port}/hook"

    @property
    def told(self) -> list[int]:
        """The numbers of the changes in deliveries answered 2xx, each once."""
        seen = [change["seq"] for delivery in self.taken for change in delivery.changes]
        return list(dict.fromkeys(seen))

    @property
    def taken(self) -> list[Delivery]:
        return [d for d in list(self.deliveries) if 200 <= self.answer(d).status < 300]

    def wait(self, count: int, *, timeout: float = 30.0) -> list[Delivery]:
        """Wait for that many deliveries, whatever the answers."""
        wait_for(lambda: len(self.deliveries) >= count, f"{count} deliveries", timeout=timeout)
        return list(self.deliveries)

    def table(self, **more: Any) -> dict[str, Any]:
        """The `[[webhook]]` table that delivers here."""
        return {
            "name": "crm",
            "url": self.url,
            "secret_file": str(self.secret_file),
            "ca_file": str(self.ca_file),
            **more,
        }

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@contextlib.contextmanager
def receiver(folder: Path) -> Iterator[Receiver]:
    running = Receiver(folder)
    try:
        yield running
    finally:
        running.close()


def _handler(owner: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            body = self.rfile.read(length)
            if len(body) < length:  # the sender died: not a delivery
                self.close_connection = True
                return
            delivery = Delivery(
                self.headers["webhook-id"],
                int(self.headers["webhook-timestamp"]),
                self.headers["webhook-signature"],
                body,
                self.path,
            )
            say = owner.answer(delivery)
            owner.deliveries.append(
                delivery
            )  # before the answer, so that whoever has it finds this
            if say.hold:
                owner.release.wait(30)
                return
            self.send_response(say.status)
            for name, value in say.headers:
                self.send_header(name, value)
            if say.drip:
                self.send_header("content-length", "1000000")
                self.end_headers()
                with contextlib.suppress(OSError):
                    while not owner.release.wait(0.05):
                        self.wfile.write(b".")
                        self.wfile.flush()
                return
            self.send_header("content-length", "0")
            self.end_headers()

        def handle(self) -> None:
            with contextlib.suppress(OSError):
                super().handle()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
