"""Reads reports: what each says, what of that is proven, and whom it concerns."""

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from hashlib import sha256

import structlog
from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.feedback import read_report
from smtpproxy.feedback.records import Class, FeedbackReport, Kind
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.return_path import ReturnPath
from smtpproxy.mailbox.authentication import Authentication
from smtpproxy.mailbox.messages import Messages
from smtpproxy.mailbox.tokens import Tokens
from smtpproxy.resolver import Resolver
from smtpproxy.settings import FeedbackSettings, Settings
from smtpproxy.store.feedback import UNKNOWN, SentMessage
from smtpproxy.store.link_keys import LinkReader
from smtpproxy.store.maildir import Arrived
from smtpproxy.store.records import StoreUnavailable

_CHECKED_AT_ONCE = 20  # reports whose signatures are checked at the same time
_HEADER = 64 * 1024  # octets
_ID = re.compile(rb"\s*<[^<>\s]{3,998}>\s*")
_TRACE = (b"return-path:", b"delivered-to:", b"x-original-to:", b"received:", b" ", b"\t")

log = structlog.get_logger(__name__)


class Understood(Struct, frozen=True):
    """A report, and what was found in it. `path` is the return path that it came to; `stream` that
    of the message that it is certainly about; `lacks` the return path of a message without a record
    here, if that is needed to know whom the report concerns; `is_of_erased`: it concerns somebody
    who was erased after being mailed."""

    arrived: Arrived
    report: FeedbackReport
    path: ReturnPath | None
    stream: str
    digest: bytes  # of what does not change in transit
    lacks: ReturnPath | None = None
    is_of_erased: bool = False

    @property
    def about(self) -> str | None:
        """The id of the message's decision, from a token."""
        return None if self.report.sent is None else self.report.sent.decision_id

    @property
    def letter(self) -> bytes:
        """What identifies a letter, whatever was added in transit (RFC 5322 3.6.4)."""
        headers = HeaderBlock(self.arrived.content[:_HEADER])
        named = [*headers.values("Message-ID"), *headers.values("Date")]
        if headers.count("Message-ID") != 1 or not _ID.fullmatch(named[0]):
            return self.digest
        return sha256(b"\n".join(each.strip() for each in named)).digest()[:16]

    @property
    def kept(self) -> bool:
        """Whether a person has to look at it, because its kind or the person it concerns is
        unknown."""
        kind, events = self.report.kind, self.report.events
        if kind is Kind.AUTO_REPLY or self.is_of_erased:
            return False
        if kind is Kind.OTHER or any(e.event_class is Class.UNKNOWN for e in events):
            return True
        return any(event.address is None for event in events)

    @property
    def hands_on(self) -> bool:
        """Whether to hand it on to the app, which already has a bounce that came to another
        path."""
        return self.path is not None and self.report.kind is Kind.DSN


class Reader(Struct, frozen=True):
    """Reads reports, according to `[feedback]`."""

    settings: FeedbackSettings
    tokens: Tokens
    authentication: Authentication | None = None  # None: `authenticate` does not require it

    @classmethod
    def of(
        cls, settings: Settings, feedback: FeedbackSettings, messages: Messages, threads: Executor
    ) -> "Reader":
        """`threads` are for checking signatures. This reads and asks nothing yet."""
        links = LinkReader(settings.server.state_dir)
        tokens = Tokens(links, feedback.domain, settings.streams, messages.here)
        if feedback.authenticate != "required":
            return cls(feedback, tokens)
        resolver = Resolver(settings.dns, time.monotonic)
        texts = lambda name: resolver.lookup(name, "TXT")  # noqa: E731
        return cls(feedback, tokens, Authentication(texts, threads, time.time))

    async def read(
        self, arrived: Sequence[Arrived], elsewhere: Mapping[str, SentMessage] | None = None
    ) -> Sequence[Understood]:
        """Read reports in a thread; `elsewhere` is what other relays know about messages.

        Raises StoreMisconfigured, OSError.
        """

        def all_of_them() -> list[Understood]:
            return [self._understood(each, elsewhere or {}) for each in arrived]

        understood = await asyncio.to_thread(all_of_them)
        if self.authentication is None:
            return understood
        return await self._all_checked(understood, self.authentication)

    async def close(self) -> None:
        """End the processes that check signatures."""
        if self.authentication is not None:
            await self.authentication.close()

    async def _all_checked(
        self, understood: Sequence[Understood], authentication: Authentication
    ) -> Sequence[Understood]:
        """Check several at the same time, so that a name server that does not answer delays only
        its own report."""
        some = asyncio.Semaphore(_CHECKED_AT_ONCE)

        async def checked(one: Understood) -> Understood:
            async with some:
                try:
                    report = await authentication.checked(one.arrived.content, one.report)
                except Exception as error:
                    report = _not_read(one.arrived, error)
            return replace(one, report=report)

        return await asyncio.gather(*(checked(one) for one in understood))

    def _understood(self, arrived: Arrived, elsewhere: Mapping[str, SentMessage]) -> Understood:
        tokens = self.tokens.of(arrived.content, elsewhere)
        require_token = self.settings.require_token
        try:
            report = read_report(arrived.content, tokens=tokens.read, require_token=require_token)
        except (StoreUnavailable, OSError):
            raise
        except Exception as error:
            report = _not_read(arrived, error)
        path, sent = tokens.path, report.sent
        stream = None if sent is None else sent.stream
        if stream is None and path is not None:
            found = self.tokens.stream(path.stream)
            stream = None if found is None else found.name
        lacks = tokens.lacks if report.events else None
        about = (path, stream or UNKNOWN, _digest(arrived.content), lacks, tokens.is_of_erased)
        return Understood(arrived, report, *about)


def _not_read(arrived: Arrived, error: Exception) -> FeedbackReport:
    """Return what is kept of a report after a fault, so that it does not block the others."""
    log.error("internal error", report=arrived.id, exc_info=error)
    return FeedbackReport(Kind.OTHER, "a fault of the program: it could not be read")


def _digest(content: bytes) -> bytes:
    """The digest of a report without the trace fields above it, which differ in each delivery."""
    rest = content.replace(b"\r\n", b"\n")
    at = 0
    while rest[at : at + 16].lower().startswith(_TRACE):
        at = rest.find(b"\n", at) + 1
        if at == 0:
            break
    return sha256(rest[at:]).digest()[:16]
