"""What TLS and AUTH cost: the same relay in clear, inside TLS, and with a login as well.

smtp-source speaks neither, so the client is asyncio's; it takes more of the machine than the
relay does, so only the ratios to the row in clear say something.
"""

import asyncio
import ssl
import tempfile
import time
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

import uvloop

from tests.kit.certificates import Authority
from tests.kit.load import SmtpSink
from tests.kit.ports import LOOPBACK
from tests.kit.relay import RelayProcess, listener

SESSIONS = 20
_LOGIN = b"AUTH PLAIN " + b64encode(b"\0bench\0bench") + b"\r\n"
_MAIL = b"MAIL FROM:<a@shop.example>\r\nRCPT TO:<b@people.example>\r\nDATA\r\n"
_BODY = b"From: a@shop.example\r\nSubject: x\r\n\r\n" + (b"y" * 76 + b"\r\n") * 52 + b".\r\n"

Rates = Mapping[str, Mapping[str, float]]
"""Messages a second by "reuse" or "new", then by "clear", "tls", "tls+auth"."""


def measure(sink: SmtpSink, seconds: float) -> Rates:
    """Measure in turns; 4 KB messages on a transactional stream."""
    with tempfile.TemporaryDirectory(prefix="smtpproxy-bench-") as folder:
        root = Path(folder)
        authority = Authority(root)
        pair = authority.issue("relay.example")
        tls = {
            "tls": "implicit",
            "certificate": str(pair.certificate),
            "private_key": str(pair.key),
        }
        config = {
            "listener": [
                listener("clear", "receipts", default="receipts"),
                listener("tls", "receipts", default="receipts", **tls),
                listener("tls-auth", "receipts", default="receipts", **tls) | {"auth": "required"},
            ],
            "auth": {"users": str(root / "users")},
        }
        relay = RelayProcess(root, sink.address, config)
        code, _, wrong = relay.command("user", "add", "bench", stdin=b"bench\n")
        if code:
            raise RuntimeError(wrong)
        with relay:
            context = authority.client_context()
            return uvloop.run(_measure(relay, context, seconds))


async def _measure(relay: RelayProcess, context: ssl.SSLContext, seconds: float) -> Rates:
    rates: dict[str, dict[str, float]] = {}
    for load, each in (("reuse", 100), ("new", 1)):
        rates[load] = {}
        for name in ("clear", "tls", "tls-auth"):
            port = relay.port(name)
            secure = None if name == "clear" else context
            await _rate(port, secure, name == "tls-auth", each, seconds / 4)
            rate = await _rate(port, secure, name == "tls-auth", each, seconds)
            rates[load][name.replace("-", "+")] = rate
    return rates


async def _rate(
    port: int, context: ssl.SSLContext | None, login: bool, each: int, seconds: float
) -> float:
    began = time.perf_counter()
    sent = 0

    async def client() -> None:
        nonlocal sent
        while time.perf_counter() - began < seconds:
            await _session(port, context, login, each)
            sent += each

    await asyncio.gather(*(client() for _ in range(SESSIONS)))
    return round(sent / (time.perf_counter() - began), 1)


async def _session(port: int, context: ssl.SSLContext | None, login: bool, count: int) -> None:
    name = None if context is None else "localhost"
    reader, writer = await asyncio.open_connection(
        LOOPBACK, port, ssl=context, server_hostname=name
    )

    async def expect(code: bytes) -> None:
        while (line := await reader.readline())[3:4] == b"-":
            pass
        if not line.startswith(code):
            raise RuntimeError(f"{line!r} instead of {code!r}")

    await expect(b"220")
    writer.write(b"EHLO client.example\r\n")
    await expect(b"250")
    if login:
        writer.write(_LOGIN)
        await expect(b"235")
    for _ in range(count):
        writer.write(_MAIL)
        for code in (b"250", b"250", b"354"):
            await expect(code)
        writer.write(_BODY)
        await expect(b"250")
    writer.write(b"QUIT\r\n")
    await expect(b"221")
    writer.close()


def note(rates: Rates) -> str:
    """Return the rates as one line under the table."""
    parts = []
    for load, by_name in rates.items():
        clear = by_name["clear"]
        ratios = ", ".join(
            f"{name} {rate:,.0f} ({rate / clear:.2f})" for name, rate in by_name.items()
        )
        parts.append(f"{load}: {ratios}")
    return f"TLS and AUTH, msg/s and the ratio to clear, {SESSIONS} sessions: " + "; ".join(parts)
