"""The MTA behind the relay: whether it greets, and whether its TLS is valid."""

import asyncio
import contextlib
import ssl
from datetime import UTC, datetime
from functools import partial

from msgspec import Struct

from smtpproxy.doctor.finding import Check, Finding, Status
from smtpproxy.doctor.machine import days_left, judge_days
from smtpproxy.first_address import first_address
from smtpproxy.settings import UnixAddress, UpstreamSettings
from smtpproxy.settings.places import is_loopback
from smtpproxy.tls import TlsError, client_context
from smtpproxy.wire.client import Capabilities, ReplyError, ReplyReader

START_IT = "start the MTA, or fix [upstream]"
_READ = 65_536


class UpstreamSeen(Struct, frozen=True):
    """What one connection showed. `failure`: why it ended early; `untrusted`: why TLS failed."""

    failure: str = ""
    protocol: str = ""  # of TLS, empty without TLS
    untrusted: str = ""
    expires: datetime | None = None


async def upstream(settings: UpstreamSettings, hostname: str, now: datetime) -> Finding:
    """Connect, send EHLO, STARTTLS and QUIT, and judge the answers. No mail is sent."""
    return judge_upstream(settings, await look(settings, hostname), now)


async def look(settings: UpstreamSettings, hostname: str) -> UpstreamSeen:
    """Look at the upstream; never raises for what it does. Bounded by the caller's timeout."""
    try:
        context = client_context(settings.ca_file)
        conversation = await Conversation.open(settings, context)
    except TlsError as error:
        return UpstreamSeen(failure=str(error))
    except ssl.SSLError as error:
        return UpstreamSeen(untrusted=_reason(error))
    except OSError as error:
        return UpstreamSeen(failure=f"no connection to {settings.address}: {error}")
    try:
        return await conversation.hold(settings, context, hostname)
    except (OSError, EOFError, ReplyError) as error:
        return UpstreamSeen(failure=f"{settings.address} went away: {error or 'closed'}")
    finally:
        conversation.close()


def judge_upstream(settings: UpstreamSettings, seen: UpstreamSeen, now: datetime) -> Finding:
    """Require valid TLS if mail leaves this machine on its way to the MTA."""
    address = str(settings.address)
    if seen.failure:
        return _upstream_finding(address, Status.FAIL, seen.failure, START_IT)
    near, asked = is_loopback(settings.address), settings.tls != "none"
    if near and not asked:
        text = "it greets, and mail to it does not leave this machine"
        return _upstream_finding(address, Status.PASS, text)
    if seen.untrusted:
        text = f"its certificate is not valid for {settings.certificate_name}: {seen.untrusted}"
        fix = "give it a valid one, or set ca_file or tls_name in [upstream]"
        status = Status.FAIL if asked else Status.WARN
        return _upstream_finding(address, status, text, fix)
    if not seen.protocol:
        if asked:
            fix = "have the MTA offer STARTTLS; until then nothing is relayed"
            return _upstream_finding(address, Status.FAIL, "it does not offer STARTTLS", fix)
        fix = 'have the MTA offer it, and set tls = "starttls" in [upstream]'
        return _upstream_finding(address, Status.FAIL, "mail goes to it in the clear", fix)
    status, validity, fix = judge_days(days_left(seen.expires, now))
    text = f"{seen.protocol}, {validity}"
    if not asked and status is Status.PASS:
        fix = 'set tls = "starttls" in [upstream]'
        return _upstream_finding(
            address, Status.WARN, f"{text}; but the relay does not require it", fix
        )
    return _upstream_finding(address, status, text, fix)


class Conversation:
    """A connection to the upstream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._replies = ReplyReader()

    @classmethod
    async def open(cls, settings: UpstreamSettings, context: ssl.SSLContext) -> "Conversation":
        address = settings.address
        tls = context if settings.tls == "implicit" else None
        name = settings.certificate_name if tls else None
        if isinstance(address, UnixAddress):
            path = str(address.path)
            return cls(*await asyncio.open_unix_connection(path, ssl=tls, server_hostname=name))
        host, port = address.host, address.port
        connect = partial(asyncio.open_connection, ssl=tls, server_hostname=name)
        return cls(*await first_address(host, port, connect))

    async def hold(
        self, settings: UpstreamSettings, context: ssl.SSLContext, hostname: str
    ) -> UpstreamSeen:
        code, text, _ = await self.reply()
        if code != 220:
            return UpstreamSeen(failure=f"it greets with {code} {text}")
        code, text, capabilities = await self.say(f"EHLO {hostname}")
        if code != 250:
            return UpstreamSeen(failure=f"it answers EHLO with {code} {text}")
        offered = "STARTTLS" in capabilities.keywords
        if settings.tls != "implicit" and offered:
            code, text, _ = await self.say("STARTTLS")
            if code != 220:
                return UpstreamSeen(failure=f"it answers STARTTLS with {code} {text}")
            try:
                await self._writer.start_tls(context, server_hostname=settings.certificate_name)
            except ssl.SSLError as error:
                return UpstreamSeen(untrusted=_reason(error))
        seen = self._seen()
        self._writer.write(b"QUIT\r\n")
        return seen

    def _seen(self) -> UpstreamSeen:
        tls = self._writer.get_extra_info("ssl_object")
        if tls is None:
            return UpstreamSeen()
        seconds = ssl.cert_time_to_seconds(tls.getpeercert()["notAfter"])
        expires = datetime.fromtimestamp(seconds, UTC)
        return UpstreamSeen(protocol=tls.version(), expires=expires)

    async def say(self, line: str) -> tuple[int, str, Capabilities]:
        self._writer.write(f"{line}\r\n".encode())
        return await self.reply()

    async def reply(self) -> tuple[int, str, Capabilities]:
        while True:
            data = await self._reader.read(_READ)
            if not data:
                raise EOFError("connection closed")
            for reply in self._replies.receive_data(data):
                return reply.code, reply.lines[0][:80], Capabilities.of(reply)

    def close(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.close()


def _reason(error: ssl.SSLError) -> str:
    return getattr(error, "verify_message", "") or error.reason or str(error)


_upstream_finding = partial(Finding, Check.UPSTREAM)
