"""The real relay as a subprocess on free loopback ports, and the MTA behind it."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session
from msgspec import Struct


class DemoError(Exception):
    """The demo failed; the text is the line shown to the user."""


LOOPBACK = "127.0.0.1"


class Captured(Struct, frozen=True):
    """One message as it arrived."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes


class CaptureMta:
    """aiosmtpd, an independent server, in a thread; `with` starts and ends it."""

    def __init__(self) -> None:
        self.messages: list[Captured] = []
        self._socket = socket.create_server((LOOPBACK, 0))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="capture-mta", daemon=True)

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self._socket.getsockname()[1]}"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Keep the message; aiosmtpd calls this at the end of data."""
        content = envelope.original_content
        assert content is not None  # always set at the end of data
        self.messages.append(Captured(envelope.mail_from or "", tuple(envelope.rcpt_tos), content))
        return f"250 2.0.0 kept as {len(self.messages)}"

    def __enter__(self) -> "CaptureMta":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._socket.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._loop.create_server(self._session, sock=self._socket))
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _session(self) -> SMTP:
        return SMTP(self, hostname="mta.example", enable_SMTPUTF8=True, loop=self._loop)


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Uses no proxy, whatever http_proxy says: it talks only to this machine."""
READY_WITHIN = 15.0
STOPPED_WITHIN = 5.0
# -P: do not import a folder `smtpproxy` in the user's working directory.
COMMAND = (sys.executable, "-P", "-m", "smtpproxy")

PUBLIC_URL = "https://unsubscribe.shop.example"

CONFIG = """\
[server]
hostname = "relay.shop.example"
state_dir = "{state}"
drain_timeout = "2s"

[[listener]]
name = "apps"
protocol = "smtp"
address = "{smtp}"
streams = ["offers", "letters", "receipts", "appeals", "trade"]
default_stream = "offers"

[upstream]
address = "{upstream}"

[store]
url = "sqlite://{state}/smtpproxy.db"

[web]
address = "{web}"
public_url = "{public_url}"

[policy]
rulebook = "fr"

[[stream]]
name = "offers"
class = "marketing"
purpose = "offers"
products = ["shoes"]
from_domains = ["shop.example"]

[[stream]]
name = "letters"
class = "marketing"
purpose = "offers"
products = ["shoes"]
from_domains = ["shop.example"]
unsubscribe = "add"

[[stream]]
name = "receipts"
class = "transactional"
from_domains = ["shop.example"]

[[stream]]
name = "appeals"
class = "marketing"
purpose = "appeals"
nature = "charity"
from_domains = ["wells.example"]

[[stream]]
name = "trade"
class = "marketing"
purpose = "trade"
topics = ["accounting"]
from_domains = ["shop.example"]
"""


class DemoRelay:
    """A relay with its configuration, not started yet; the end of `with` stops it."""

    def __init__(self, folder: Path, upstream: str) -> None:
        self.state = folder / "state"
        self.state.mkdir()
        self.config = folder / "smtpproxy.toml"
        self.log = folder / "relay.log"
        self.smtp_port, self._smtp_lock = free_port(2525)
        self.web_port, self._web_lock = free_port(8025)
        self._process: subprocess.Popen[bytes] | None = None
        self.config.write_text(
            CONFIG.format(
                state=self.state,
                smtp=f"{LOOPBACK}:{self.smtp_port}",
                upstream=upstream,
                web=f"{LOOPBACK}:{self.web_port}",
                public_url=PUBLIC_URL,
            )
        )

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.web_port}"

    @property
    def audit(self) -> Path:
        return self.state / "audit"

    def command(self, *arguments: str, code: int = 0) -> str:
        """Run `smtpproxy COMMAND…` on this relay's store; return what it printed."""
        argv = [*COMMAND, *arguments, "--config", str(self.config)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode != code:
            what = " ".join(arguments[:2])
            raise DemoError(f"`smtpproxy {what}` failed: {_last(done.stderr or done.stdout)}")
        return done.stdout

    def start(self) -> None:
        """Start the relay and wait until it is ready."""
        with self.log.open("wb") as log:
            # Its own session: Ctrl-C reaches only the demo, which then stops the relay.
            self._process = subprocess.Popen(
                [*COMMAND, "serve", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        end = time.monotonic() + READY_WITHIN
        while not (_get(f"{self.url}/readyz") and _greets(self.smtp_port)):
            if self._process.poll() is not None:
                raise DemoError(f"the relay did not start: {_last(self.log.read_text())}")
            if time.monotonic() > end:
                raise DemoError(f"the relay was not ready within {READY_WITHIN:g} s")
            time.sleep(0.05)

    def metrics(self) -> dict[str, float]:
        """Scrape /metrics; return values by name and labels."""
        text = _get(f"{self.url}/metrics")
        if text is None:
            raise DemoError("the relay's /metrics cannot be read")
        samples = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                samples[name] = float(value)
        return samples

    def post(self, path: str, form: bytes) -> int:
        """Send a form as a mail program does; return the status of the answer."""
        try:
            with _OPENER.open(f"{self.url}{path}", form, timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError as error:
            raise DemoError(f"the relay's web port does not answer: {error}") from error

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Stop it with SIGTERM, as systemd would; with SIGKILL if that is not enough."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOPPED_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> "DemoRelay":
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._smtp_lock.close()
        self._web_lock.close()


def free_port(wanted: int) -> tuple[int, socket.socket]:
    """Return `wanted`, or the next port without a listener, and a lock to close after its use.

    The relay listens only some seconds later: without the lock, a second demo would take the same
    port, and talk to the relay of the first.
    """
    for port in range(wanted, wanted + 1_000):
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0smtpproxy-demo-{port}")  # in no folder; gone with the process
            with socket.create_server((LOOPBACK, port)):
                return port, lock
        except OSError:
            lock.close()
    raise DemoError(f"no free port between {wanted} and {wanted + 1_000} on {LOOPBACK}")


def _get(url: str) -> str | None:
    with (
        contextlib.suppress(OSError),
        _OPENER.open(url, timeout=2) as response,
    ):
        body: bytes = response.read()
        return body.decode()
    return None


def _greets(port: int) -> bool:
    with (
        contextlib.suppress(OSError),
        socket.create_connection((LOOPBACK, port), timeout=2) as connection,
    ):
        return connection.recv(512).startswith(b"220")
    return False


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
