"""What a transaction is given: the streams and senders that its client may use (design.md section
3, steps 1 to 3), the rulebooks, the clock, and where events go. Nothing here waits."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, Protocol

from msgspec import Struct, structs

from smtpproxy.core.confirm_links import ConfirmLinks
from smtpproxy.core.effects import Upstream
from smtpproxy.events import Emit, Relayed
from smtpproxy.locale import notice_texts
from smtpproxy.mail.address import AddressError, canonical
from smtpproxy.mail.dsn import NoticeTexts
from smtpproxy.policy.decide import needs
from smtpproxy.policy.model import (
    DEFAULT_STREAM,
    Alignment,
    Lookups,
    Mode,
    Rulebook,
    Stream,
    Transaction,
)
from smtpproxy.relay.mail_parameters import MailParameters
from smtpproxy.settings import Credential, ListenerSettings, SenderRule, Settings
from smtpproxy.store.link_keys import LinkReader

SigningKeys = Callable[[tuple[str, ...], str, datetime], Sequence[Any]]
"""Returns the keys that sign a message with these From domains, on a stream, at a time."""


ReturnPathMaker = Callable[[str, str, str], str]
"""Makes the reverse path from a decision's id, a stream's name and a canonical recipient."""


class UnsubscribeFields(Protocol):
    """Makes the header fields with the recipient's own unsubscribe link."""

    def fields(self, stream: Stream, address: str, id: str, *, has_list_id: bool) -> bytes:
        """Raises StoreUnavailable."""
        ...


class Services(Struct, frozen=True):
    """What all transactions of a process share."""

    hostname: str
    stream_header: str
    on_mixed: Literal["refuse", "split"]
    rulebooks: Mapping[str, Rulebook]
    now: Callable[[], datetime]  # UTC
    ticks: Callable[[], float]  # seconds, for durations only
    new_id: Callable[[], str]
    emit: Emit
    note_outcome: Callable[[Relayed], None]  # records the client's answer
    open_upstream: Callable[[MailParameters], Upstream]
    notice_texts: NoticeTexts
    source_header: str | None = None
    undeclared: Stream = DEFAULT_STREAM  # for mail that declares nothing, or falsely
    links: UnsubscribeFields | None = None  # None: no stream adds links
    confirm_links: ConfirmLinks | None = None  # None: no message has to carry one
    return_path: ReturnPathMaker | None = None  # None: no stream has bounces come back to us
    return_domain: str = ""  # of these paths
    signing_keys: SigningKeys | None = None  # None: nothing is signed
    checks_signatures: bool = False  # some stream checks DKIM signatures
    counts_mailings: bool = False  # some stream counts what it sends
    counts_texts: bool = False  # some stream counts who is sent one text
    asks_organisations: bool = False  # some stream has relaxed alignment
    asks_domains: bool = False  # recipients' domains are checked for a null MX
    help_url: str = ""  # a page about each reason, for replies
    record_waits: bool = False  # for the disk: the store may change meanwhile
    reads_standby: bool = False  # what is read at RCPT may be out of date


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
    return_path: ReturnPathMaker | None = None,
    signing_keys: SigningKeys | None = None,
    asks_dns: bool = True,
) -> Services:
    """Return the services of a process with this configuration."""
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
        confirm_links=_confirm_links(settings),
        return_path=return_path,
        return_domain="" if settings.feedback is None else settings.feedback.domain,
        signing_keys=signing_keys,
        checks_signatures=asks_dns and check_dkim,
        counts_mailings=settings.counts_mailings,
        counts_texts=settings.counts_bulk,
        asks_organisations=asks_dns and relaxed,
        asks_domains=asks_dns and settings.policy.check_recipient_domain,
        help_url=settings.policy.help_url or "",
        record_waits=settings.audit.sync == "disk",
        reads_standby=settings.store.replica_url is not None,
    )


def _confirm_links(settings: Settings) -> ConfirmLinks | None:
    """If a message has to carry one, `public_url` is set."""
    if settings.web is None or not any(stream.permission for stream in settings.streams.values()):
        return None
    reader = LinkReader(settings.server.state_dir)
    return ConfirmLinks(settings.web.public_url or "", reader.open_confirmation)


class StreamChoice(Struct, frozen=True, dict=True):
    """The streams that a message may still turn out to be on.

    The stream header may name one of `permitted`; a message without one is on `default`.
    `candidates` is all of these, the default first. What all messages with the same choice share is
    computed once.
    """

    permitted: tuple[Stream, ...]
    default: Stream
    candidates: tuple[Stream, ...]

    @classmethod
    def of(cls, permitted: Sequence[Stream], default: Stream) -> "StreamChoice":
        others = tuple(stream for stream in permitted if stream is not default)
        return cls(tuple(permitted), default, (default, *others))

    @cached_property
    def certain(self) -> bool:
        return len(self.candidates) == 1

    @cached_property
    def one_rulebook(self) -> bool:
        """Whether all candidates have the same rulebook."""
        return all(stream.rulebook == self.candidates[0].rulebook for stream in self.candidates)

    @cached_property
    def refuses_at_rcpt(self) -> bool:
        """Whether every candidate refuses recipients at RCPT."""
        return all(
            stream.mode is Mode.ENFORCE and not stream.refuse_at_data for stream in self.candidates
        )

    @cached_property
    def makes_copies(self) -> bool:
        """Whether each recipient may need their own copy."""
        return any(s.unsubscribe_scope is not None or s.verp for s in self.candidates)

    @cached_property
    def returns(self) -> bool:
        """Whether bounces come back to us, whichever stream the message names."""
        return self.certain and self.default.verp

    @cached_property
    def lookups(self) -> Lookups:
        """What has to be read about each recipient, whichever stream it will be."""
        rulebook = Rulebook(self.candidates[0].rulebook)
        return needs(Transaction(self.candidates, ()), rulebook)


_MOST_FOUND = 10_000
"""How many combinations of listener, credential and rule a process caches the choice for."""


class StreamTable:
    """Finds the choice of streams by listener, credential and reverse path.

    Credentials and sender rules narrow what the listener allows and never widen it.
    """

    def __init__(self, settings: Settings) -> None:
        self._streams = settings.streams
        self._undeclared = settings.streams.get(DEFAULT_STREAM.name, DEFAULT_STREAM)
        self._rules = {rule.sender.lower(): rule for rule in settings.sender_rules}
        self._listeners = {listener.name: listener for listener in settings.listeners}
        self._users = {c.user: c for c in settings.credentials if c.user is not None}
        self._certificates = {
            c.certificate: c for c in settings.credentials if c.certificate is not None
        }
        # Made when mail needs them: a hundred listeners, a thousand credentials and ten thousand
        # rules could be combined in a billion ways, most of which narrow to the same few choices.
        self._found: dict[tuple[str, str, str], StreamChoice] = {}
        self._choices: dict[tuple[Sequence[str], str | None, frozenset[str]], StreamChoice] = {}

    def choice(
        self, listener: str, reverse_path: str, credential: Credential | None = None
    ) -> StreamChoice:
        name, rule = "" if credential is None else credential.name, ""
        if self._rules:
            sender = _sender(reverse_path) if reverse_path else "<>"
            for key in (sender, "@" + sender.rpartition("@")[2]):
                if key in self._rules:
                    rule = key
                    break
        try:
            return self._found[listener, name, rule]
        except KeyError:
            found = self._limited(self._listeners[listener], credential, self._rules.get(rule))
        if len(self._found) >= _MOST_FOUND:
            self._found.clear()
        self._found[listener, name, rule] = found
        return found

    def of_user(self, user: str) -> Credential | None:
        """Return what a user may do; None: whatever the listener allows."""
        return self._users.get(user)

    def of_certificate(self, fingerprint: str, subject: str) -> Credential | None:
        """Return what a client certificate may do; None if it is not a credential."""
        return self._certificates.get(fingerprint) or self._certificates.get(subject)

    def _limited(
        self,
        listener: ListenerSettings,
        credential: Credential | None,
        rule: SenderRule | None,
    ) -> StreamChoice:
        """The streams that all of them allow; a listener without streams allows none."""
        names, default = listener.streams, listener.default_stream
        for limit in (credential, rule):
            if limit is not None and limit.streams is not None:
                names = tuple(name for name in limit.streams if name in names)
                default = limit.default_stream or default
        domains = credential.from_domains if credential is not None else frozenset[str]()
        key = names, default if default in names else None, domains
        if key not in self._choices:
            self._choices[key] = self._choice(*key)
        return self._choices[key]

    def _choice(
        self, names: Sequence[str], default: str | None, domains: frozenset[str]
    ) -> StreamChoice:
        """`domains`: the From domains that a credential allows; empty for all."""
        chosen = self._streams[default] if default else self._undeclared
        permitted = [self._streams[name] for name in names]
        if not domains:
            return StreamChoice.of(permitted, chosen)
        narrowed = {one.name: _within(one, domains) for one in (chosen, *permitted)}
        return StreamChoice.of([narrowed[one.name] for one in permitted], narrowed[chosen.name])


def permits(credential: Credential, reverse_path: str) -> bool:
    """Whether the client may use this reverse path; "" is the null path."""
    if not credential.senders:
        return True
    if not reverse_path:
        return "<>" in credential.senders
    sender = _sender(reverse_path)
    domain = "@" + sender.rpartition("@")[2]
    return sender != "" and (sender in credential.senders or domain in credential.senders)


_NO_DOMAIN = frozenset({"."})
"""No From matches it; an empty set would mean no limit."""


def _within(stream: Stream, domains: frozenset[str]) -> Stream:
    """The stream, with the From domains that both it and the credential allow."""
    own = stream.from_domains
    both = own & domains if own else domains - stream.foreign_domains
    return structs.replace(stream, from_domains=both or _NO_DOMAIN)


def _sender(reverse_path: str) -> str:
    """The form in which sender rules are kept; "", which matches none, if it is not an address."""
    try:
        return canonical(reverse_path)
    except AddressError:
        return ""
