"""What a transaction is given: its rules, the clock, where events go. Nothing here waits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from smtpproxy.core.effects import Upstream
from smtpproxy.events import Emit, Relayed
from smtpproxy.locale.texts import notice_texts
from smtpproxy.mail.dsn import NoticeTexts
from smtpproxy.policy.model import DEFAULT_STREAM, Alignment, Rulebook, Stream
from smtpproxy.relay.transaction import MailParameters
from smtpproxy.settings import Settings

SigningKeys = Callable[[tuple[str, ...], str, datetime], Sequence[Any]]
"""The keys that sign a message with these From domains on a stream, at a time."""


class UnsubscribeFields(Protocol):
    """Makes the header fields with an unsubscribe link of the recipient's own."""

    def fields(self, stream: Stream, address: str, id: str, *, has_list_id: bool) -> bytes:
        """Raises StoreUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """The surroundings of every transaction of a process."""

    hostname: str
    stream_header: str
    on_mixed: Literal["refuse", "split"]
    rulebooks: Mapping[str, Rulebook]
    now: Callable[[], datetime]  # UTC
    ticks: Callable[[], float]  # seconds, for durations only
    new_id: Callable[[], str]
    emit: Emit
    note_outcome: Callable[[Relayed], None]  # the client's answer, for the record
    open_upstream: Callable[[MailParameters], Upstream]
    notice_texts: NoticeTexts
    source_header: str | None = None
    undeclared: Stream = DEFAULT_STREAM  # for mail that declares nothing, or falsely
    links: UnsubscribeFields | None = None  # where no stream adds links
    signing_keys: SigningKeys | None = None  # where there are no keys
    checks_signatures: bool = False  # some stream asks whether signatures are valid
    counts_mailings: bool = False  # some stream counts what it sends
    counts_texts: bool = False  # some stream counts who is sent one text
    asks_organisations: bool = False  # some stream asks for relaxed alignment
    asks_domains: bool = False  # recipients' domains are asked for a null MX
    record_waits: bool = False  # a record takes so long that others act meanwhile


def services_of(
    settings: Settings,
    *,
    now: Callable[[], datetime],
    ticks: Callable[[], float],
    new_id: Callable[[], str],
    emit: Emit,
    note_outcome: Callable[[Relayed], None],
    open_upstream: Callable[[MailParameters], Upstream],
    links: UnsubscribeFields | None = None,
    signing_keys: SigningKeys | None = None,
    asks_dns: bool = True,
) -> Services:
    """Return what the transactions of a process with this configuration are given."""
    check_dkim = any(stream.check_dkim for stream in settings.streams.values())
    relaxed = any(s.alignment is Alignment.RELAXED for s in settings.streams.values())
    return Services(
        hostname=settings.server.hostname,
        stream_header=settings.server.stream_header,
        on_mixed=settings.policy.on_mixed,
        rulebooks=settings.rulebooks,
        now=now,
        ticks=ticks,
        new_id=new_id,
        emit=emit,
        note_outcome=note_outcome,
        open_upstream=open_upstream,
        notice_texts=notice_texts(settings.server.language),
        source_header=settings.source_header,
        undeclared=settings.streams[DEFAULT_STREAM.name],
        links=links,
        signing_keys=signing_keys,
        checks_signatures=asks_dns and check_dkim,
        counts_mailings=settings.counts_mailings,
        counts_texts=settings.counts_bulk,
        asks_organisations=asks_dns and relaxed,
        asks_domains=asks_dns and settings.policy.check_recipient_domain,
        record_waits=settings.audit.sync == "disk",
    )
