"""The MTA behind the relay: whether it greets, whether its TLS is valid, and how many connections
it accepts at once.

The relay may be at work meanwhile, so they are counted briefly: a few are opened at a time, up to
the first that the MTA does not accept, and held for no more than two seconds.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.doctor.finding import Check, Finding, Status
from smtpproxy.doctor.machine import days_left, judge_days
from smtpproxy.first_address import addresses, first_address
from smtpproxy.settings import Settings, TcpAddress, UnixAddress, UpstreamSettings
from smtpproxy.settings.places import is_loopback
from smtpproxy.tls import TlsError, client_context
from smtpproxy.wire.client import Capabilities, ReplyError, ReplyReader

START_IT = "start the MTA, or fix [upstream]"
_IN_THE_CLEAR = "mail goes to it in the clear"
_READ = 65_536


class UpstreamSeen(Struct, frozen=True):
    """What one connection showed. `failure`: why it ended early; `untrusted`: why TLS failed."""

    failure: str = ""
    protocol: str = ""  # of TLS, empty without TLS
    untrusted: str = ""
    expires: datetime | None = None


async def each_address(settings: UpstreamSettings) -> list[UpstreamSettings]:
    """Return settings for each address of the upstream's name, if it has several."""
    address = settings.address
    if isinstance(address, UnixAddress) or is_loopback(address):
        return [settings]
    try:
        found = await addresses(address.host, address.port)
    except OSError:  # the check says so
        return [settings]
    name = settings.certificate_name
    several = [replace(settings, address=TcpAddress(*each), tls_name=name) for each in found]
    return several if len(several) > 1 else [settings]


def judge_addresses(findings: Sequence[Finding]) -> list[Finding]:
    """Reduce the faults of single addresses to warnings if mail can go to another address."""
    if all(each.status is Status.FAIL for each in findings):
        return list(findings)
    return [
        replace(each, status=Status.WARN, text=f"{each.text}; mail goes to another address")
        if each.status is Status.FAIL and each.text != _IN_THE_CLEAR
        else each
        for each in findings
    ]


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
        return _finding(address, Status.FAIL, seen.failure, START_IT)
    near, asked = is_loopback(settings.address), settings.tls != "none"
    if near and not asked:
        text = "it greets, and mail to it does not leave this machine"
        return _finding(address, Status.PASS, text)
    if seen.untrusted:
        text = f"its certificate is not valid for {settings.certificate_name}: {seen.untrusted}"
        fix = "give it a valid one, or set ca_file or tls_name in [upstream]"
        status = Status.FAIL if asked else Status.WARN
        return _finding(address, status, text, fix)
    if not seen.protocol:
        if asked:
            fix = "have the MTA offer STARTTLS; until then nothing is relayed"
            return _finding(address, Status.FAIL, "it does not offer STARTTLS", fix)
        fix = 'have the MTA offer it, and set tls = "starttls" in [upstream]'
        return _finding(address, Status.FAIL, _IN_THE_CLEAR, fix)
    status, validity, fix = judge_days(days_left(seen.expires, now))
    text = f"{seen.protocol}, {validity}"
    if not asked and status is Status.PASS:
        fix = 'set tls = "starttls" in [upstream]'
        return _finding(address, Status.WARN, f"{text}; but the relay does not require it", fix)
    return _finding(address, status, text, fix)


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
        return cls(*await first_address(await addresses(host, port), connect))

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


_finding = partial(Finding, Check.UPSTREAM)


_MOST = 64  # connections, with those of the relay
_AT_A_TIME = 4  # fewer than the queue for new connections of OpenSMTPD, 5
_SECONDS = 2.0  # for all of them
_SILENT = 0.7  # seconds; then the MTA is taken not to greet
_NO_GREETING = f"it does not greet within {_SILENT:g} s"
_QUIT_WITHIN = 0.5


class InUse(Struct, frozen=True):
    """The running relay's connections to the upstream, and how many messages wait for one."""

    connections: int = 0
    waiting: int = 0


class Taken(Struct, frozen=True):
    """On how many connections at once the MTA greeted, and what it did on one more; empty if it
    greeted on all that were tried. `slow`: it greets too late to be counted."""

    count: int
    refusal: str = ""
    slow: bool = False


async def upstream_connections(settings: Settings, in_use: InUse) -> Finding:
    """Connect as often at once as the relay may, within bounds, and judge it. Says only QUIT."""
    if in_use.waiting:
        text = "not tried: messages of the relay wait for a connection"
        return _connections(settings, Status.UNKNOWN, text, "run it again while less mail is sent")
    more = min(_may_open(settings), _MOST) - in_use.connections
    return judge_connections(settings, in_use, await count_taken(settings.upstream, more))


def judge_connections(settings: Settings, in_use: InUse, taken: Taken) -> Finding:
    count, may = taken.count + in_use.connections, _may_open(settings)
    if taken.slow or (taken.refusal and not count):
        text = f"it is unknown how many it accepts: {taken.refusal}"
        return _connections(
            settings, Status.UNKNOWN, text, "see the check upstream, or run it again"
        )
    text = f"it accepts {count} at once"
    if in_use.connections:
        text += f" ({in_use.connections} for the running relay)"
    if not taken.refusal:
        return _connections(settings, Status.PASS, f"{text}; the relay may open {may}")
    text += f", and the relay may open {may}: on one more {taken.refusal}"
    return _connections(settings, Status.WARN, text, _fix(count, settings.server.workers))


def _may_open(settings: Settings) -> int:
    return settings.upstream.max_connections * settings.server.workers


def _fix(count: int, workers: int) -> str:
    if workers > count:
        lower = f"set [server] workers = {count} and [upstream] max_connections = 1"
    else:
        lower = f"set [upstream] max_connections = {count // workers}"
        if workers > 1:
            lower += f" ({count} divided by {workers} workers)"
    return f"{lower}, or have the MTA accept more"


def _connections(settings: Settings, status: Status, text: str, fix: str = "") -> Finding:
    return Finding(Check.CONNECTIONS, str(settings.upstream.address), status, text, fix)


async def count_taken(settings: UpstreamSettings, most: int) -> Taken:
    """Open up to `most` connections, a few at a time, and keep them until one is not taken."""
    try:
        context = client_context(settings.ca_file)
    except TlsError as error:
        return Taken(0, str(error))
    if most < 1:
        return Taken(0)
    taken = await _while_kept(settings, context, most)
    if taken.refusal == _NO_GREETING:
        # It has a limit if it greets now that there is room.
        again = await _while_kept(settings, context, 1)
        return Taken(taken.count, taken.refusal, slow=not again.count)
    return taken


async def _while_kept(settings: UpstreamSettings, context: ssl.SSLContext, most: int) -> Taken:
    now = asyncio.get_running_loop().time
    open_ones: list[Conversation] = []
    try:
        refusals, silent = await _opened(settings, context, 1, open_ones, within=_SECONDS)
        if refusals:
            return Taken(0, refusals[0])
        if silent:
            return Taken(0, f"it does not greet within {_SECONDS:g} s", slow=True)
        until, silent_before = now() + _SECONDS, False
        while len(open_ones) < most:
            number = min(_AT_A_TIME, most - len(open_ones))
            refusals, silent = await _opened(settings, context, number, open_ones, within=_SILENT)
            if refusals:
                return Taken(len(open_ones), refusals[0])
            # Where it greets on others at once, it was only slow: it asked the DNS for our name.
            if silent == number and silent_before:
                return Taken(len(open_ones), _NO_GREETING)
            silent_before = silent == number
            if now() > until and len(open_ones) < most:
                refusal = f"it greeted on {len(open_ones)} within {_SECONDS:g} s"
                return Taken(len(open_ones), refusal, slow=True)
        return Taken(len(open_ones))
    finally:
        await _quit(open_ones)


async def _opened(
    settings: UpstreamSettings,
    context: ssl.SSLContext,
    number: int,
    open_ones: list[Conversation],
    *,
    within: float,
) -> tuple[Sequence[str], int]:
    """Open some more. Returns how the MTA refuses some, and on how many it keeps silent."""
    opening = [asyncio.ensure_future(_open(settings, context, open_ones)) for _ in range(number)]
    try:
        done, silent = await asyncio.wait(opening, timeout=within)
    finally:
        for each in opening:
            each.cancel()  # without effect on those that are done
    return [refusal for each in done if (refusal := each.result())], len(silent)


async def _open(
    settings: UpstreamSettings, context: ssl.SSLContext, open_ones: list[Conversation]
) -> str:
    """Open one, or return how the MTA refuses it."""
    try:
        conversation = await Conversation.open(settings, context)
    except OSError as error:
        return f"there is no connection: {error}"
    try:
        code, text, _ = await conversation.reply()
        if code != 220:
            return f"it greets with {code} {text}"
        open_ones.append(conversation)
        return ""
    except (OSError, EOFError, ReplyError) as error:
        return f"it ends without a greeting: {error}"
    finally:
        if conversation not in open_ones:
            conversation.close()


async def _quit(open_ones: Sequence[Conversation]) -> None:
    async def leave(one: Conversation) -> None:
        with contextlib.suppress(OSError, EOFError, ReplyError):
            await one.say("QUIT")

    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_QUIT_WITHIN):
                await asyncio.gather(*map(leave, open_ones))
    finally:
        for one in open_ones:
            one.close()
