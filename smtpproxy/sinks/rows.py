"""The label rows that can occur with these settings: they are shown from the start.

Only what is possible is listed: streams that a listener's mail can be on, reasons that
fit the stream's class.
"""

from collections.abc import Callable, Iterable
from itertools import product
from typing import get_args

from msgspec import Struct

from smtpproxy.events import AuthOutcome, Part, ProxyOutcome, TlsOutcome
from smtpproxy.mail.confirmation_token import Kind
from smtpproxy.policy.breaker import RESTORE, Feedback
from smtpproxy.policy.model import (
    Action,
    Basis,
    Mode,
    Origin,
    Reason,
    Stream,
    StreamClass,
    UndeclaredBulk,
)
from smtpproxy.policy.rulebook import (
    MARKETING_MESSAGE_REASONS,
    MESSAGE_REASONS,
    TRANSACTIONAL_MESSAGE_REASONS,
)
from smtpproxy.settings import ListenerSettings, Settings
from smtpproxy.sinks.snapshots import Labels


class Rows(Struct, frozen=True):
    """The labels of a metric, and the rows that can occur."""

    labels: tuple[str, ...]
    of: Callable[[Settings], Iterable[Labels]]


def _labelled(*labels: str) -> Callable[[Callable[[Settings], Iterable[Labels]]], Rows]:
    return lambda of: Rows(labels, of)


CODE_CLASSES = ("2xx", "3xx", "4xx", "5xx", "none")
FAILING_PARTS: tuple[str, ...] = get_args(Part)
REFUSAL_CAUSES = ("limit", "address_limit", "files", "rate", "draining")
ENDS = (
    *("quit", "eof", "error", "timeout", "slow", "errors", "pipelining", "line_too_long"),
    *("bare_newline", "chunk_size", "tls", "protocol", "shutdown"),
)
"""Why a connection ended."""
SERVERS = ("primary", "standby")
"""Servers of PostgreSQL that may answer a read."""
TLS_OUTCOMES: tuple[str, ...] = get_args(TlsOutcome)
AUTH_OUTCOMES: tuple[str, ...] = get_args(AuthOutcome)
AUTH_MECHANISMS = ("PLAIN", "LOGIN", "SCRAM-SHA-256")
PROXY_OUTCOMES: tuple[str, ...] = get_args(ProxyOutcome)
CONFIRMATION_ANSWERS = ("done", "again", "over")
PAUSE_CAUSES = (
    *("configuration", "person", RESTORE),
    *map(str, (Feedback.COMPLAINT, Feedback.DEAD_ADDRESS)),
)
FEEDBACK_KINDS = (
    *("complaint", "dead", "full", "blocked", "spam", "transient", "unknown"),
    *("auto_reply", "other"),
)
"""Feedback by mail, other than requests to unsubscribe."""

PURGED_KINDS = (
    *("contacts", "suppressions", "lifted_suppressions", "mailings", "reports", "audit"),
)
WEBHOOK_OUTCOMES = (
    "delivered",
    "refused",
    "failed",
    "redirected",
    "unreachable",
    "timeout",
    "gone",
)

_SUPPRESSED = tuple(Reason(f"suppressed_{origin}") for origin in Origin)
_FOR_ALL_RECIPIENTS = (Reason.STREAM_NOT_PERMITTED, Reason.NULL_MX, Reason.TRACKING_UNCONSENTED)
_DEFERRALS = (
    Reason.RESTORE_PENDING,
    Reason.STREAM_PAUSED,
    Reason.FREQUENCY_CAP,
    Reason.LIST_STALE,
    Reason.CAMPAIGN_ON_TRIAL,
)
_NOT_NOW = frozenset({*_DEFERRALS, Reason.TEMPORARY_FAILURE})
_FOR_RECIPIENTS = tuple(
    reason
    for reason in Reason
    if reason not in {Reason.NONE, *_SUPPRESSED, *MESSAGE_REASONS, *MARKETING_MESSAGE_REASONS}
    and reason not in {*TRANSACTIONAL_MESSAGE_REASONS, *_FOR_ALL_RECIPIENTS, *_NOT_NOW}
)  # on marketing streams, in addition to suppressions

_OF_PERMISSION = frozenset(
    {Reason.PERMISSION_NOT_DUE, Reason.PERMISSION_REPEATED, Reason.CONFIRM_LINK_MISSING}
)

Verdicts = tuple[tuple[Action, Reason], ...]


def message_verdicts(stream: Stream) -> Verdicts:
    """Return what can happen to a message on a stream like this."""
    marketing = stream.stream_class is StreamClass.MARKETING
    refusals: tuple[Reason, ...] = MESSAGE_REASONS
    refusals += MARKETING_MESSAGE_REASONS if marketing else TRANSACTIONAL_MESSAGE_REASONS
    refusals = tuple(r for r in refusals if stream.permission or r not in _OF_PERMISSION)
    return (
        (Action.ALLOW, Reason.NONE),
        *((Action.REFUSE, reason) for reason in refusals),
        (Action.DEFER, Reason.RECIPIENTS_REFUSED),  # all of them are deferred
        (Action.DEFER, Reason.TEMPORARY_FAILURE),
    )


def recipient_verdicts(stream: Stream) -> Verdicts:
    """Return what can happen to a recipient on a stream like this."""
    marketing = stream.stream_class is StreamClass.MARKETING
    refusals = (*_SUPPRESSED, *_FOR_ALL_RECIPIENTS)
    refusals += _FOR_RECIPIENTS if marketing else ()
    refusals = tuple(r for r in refusals if stream.permission or r not in _OF_PERMISSION)
    deferrals = (Reason.TEMPORARY_FAILURE, *(_DEFERRALS if marketing else ()))
    return (
        (Action.ALLOW, Reason.NONE),
        *((Action.REFUSE, reason) for reason in refusals),
        *((Action.DEFER, reason) for reason in deferrals),
    )


def bases(stream: Stream) -> tuple[Basis, ...]:
    if stream.permission:
        return (Basis.PERMISSION,)
    if stream.stream_class is StreamClass.TRANSACTIONAL:
        return (Basis.TRANSACTIONAL,)
    return tuple(b for b in Basis if b not in (Basis.TRANSACTIONAL, Basis.PERMISSION))


def _reachable(settings: Settings, listener: ListenerSettings) -> Iterable[Stream]:
    """Yield the streams that mail from this listener can be on."""
    names = dict.fromkeys(listener.streams)
    falls = (settings.streams[name].undeclared_bulk for name in names if name in settings.streams)
    if listener.default_stream is None or UndeclaredBulk.MARKETING in falls:
        names["default"] = None
    return (settings.streams[name] for name in names if name in settings.streams)


def _listener_streams(settings: Settings) -> Iterable[tuple[str, Stream]]:
    for listener in settings.listeners:
        for stream in _reachable(settings, listener):
            yield listener.name, stream


def unknown(*labels: str) -> Rows:
    """Rows that are not known before they occur."""
    return Rows(labels, lambda settings: ())


def crossed(**labels: Iterable[str] | Callable[[Settings], Iterable[str]]) -> Rows:
    """Rows with all combinations of these values; a function finds them in the settings."""
    return Rows(
        tuple(labels),
        lambda settings: product(
            *(each(settings) if callable(each) else each for each in labels.values())
        ),
    )


def listeners(settings: Settings) -> Iterable[str]:
    return [listener.name for listener in settings.listeners]


def proxied(settings: Settings) -> Iterable[str]:
    """Return the listeners that read PROXY headers."""
    return [listener.name for listener in settings.listeners if listener.proxy_protocol]


def with_tls(settings: Settings) -> Iterable[str]:
    return [listener.name for listener in settings.listeners if listener.tls != "none"]


def _with_auth(settings: Settings) -> Iterable[str]:
    return [listener.name for listener in settings.listeners if listener.auth != "off"]


def _streams(settings: Settings) -> Iterable[str]:
    return settings.streams


def _of_class(stream_class: StreamClass) -> Callable[[Settings], Iterable[str]]:
    return lambda settings: [
        stream.name for stream in settings.streams.values() if stream.stream_class is stream_class
    ]


_marketing, _transactional = map(_of_class, (StreamClass.MARKETING, StreamClass.TRANSACTIONAL))


def _tokens(settings: Settings) -> Iterable[str]:
    """Requests without a known token count too, where there are tokens at all."""
    return [*(token.name for token in settings.tokens), "unknown"] if settings.tokens else ()


one_row = crossed()
by_listener = crossed(listener=listeners)
by_stream = crossed(stream=_streams)
by_marketing_stream = crossed(stream=_marketing)
by_bulk_action = crossed(stream=_transactional, action=tuple(map(str, UndeclaredBulk)))
by_tracking = crossed(
    stream=lambda settings: [s.name for s in settings.streams.values() if s.looks_for_pixels],
    action=("passed", "stripped", "refused", "consented"),
)
by_auth_outcome = crossed(listener=_with_auth, mechanism=AUTH_MECHANISMS, outcome=AUTH_OUTCOMES)
by_partner = crossed(partner=lambda settings: [one.name for one in settings.store.partners])
by_confirmation = crossed(link=get_args(Kind), answer=CONFIRMATION_ANSWERS)
by_webhook_outcome = crossed(
    webhook=lambda settings: [webhook.name for webhook in settings.webhooks],
    outcome=WEBHOOK_OUTCOMES,
)
by_feedback_state = crossed(
    # `elsewhere` is 0 where one relay has the store to itself.
    state=lambda settings: ("kept", "hand_on", "elsewhere") if settings.feedback else ()
)
by_pause_cause = crossed(stream=_marketing, cause=PAUSE_CAUSES)
by_heard = crossed(stream=_marketing, cause=tuple(map(str, Feedback)))
by_token = crossed(token=_tokens, code_class=("2xx", "4xx", "5xx"))


@_labelled("listener", "stream")
def by_listener_and_stream(settings: Settings) -> Iterable[Labels]:
    """Of listeners that relay: an MTA that only asks sends the mail itself."""
    relaying = {each.name for each in settings.listeners if each.protocol in ("smtp", "lmtp")}
    return (
        (listener, stream.name)
        for listener, stream in _listener_streams(settings)
        if listener in relaying
    )


@_labelled("listener", "stream", "code_class")
def by_final_answer(settings: Settings) -> Iterable[Labels]:
    for row in by_listener_and_stream.of(settings):
        for code_class in CODE_CLASSES:
            if code_class != "3xx":  # never the answer to a whole message
                yield (*row, code_class)


def by_verdict(verdicts: Callable[[Stream], Verdicts]) -> Rows:
    @_labelled("listener", "stream", "verdict", "reason")
    def rows(settings: Settings) -> Iterable[Labels]:
        for listener, stream in _listener_streams(settings):
            for action, reason in verdicts(stream):
                yield listener, stream.name, str(action), str(reason)

    return rows


@_labelled("stream", "basis")
def by_basis(settings: Settings) -> Iterable[Labels]:
    for stream in settings.streams.values():
        for basis in bases(stream):
            yield stream.name, str(basis)


@_labelled("stream", "reason")
def by_observed_reason(settings: Settings) -> Iterable[Labels]:
    for stream in settings.streams.values():
        if stream.mode is Mode.OBSERVE:
            verdicts = dict.fromkeys((*recipient_verdicts(stream), *message_verdicts(stream)))
            for action, reason in verdicts:
                if action is not Action.ALLOW:
                    yield stream.name, str(reason)


@_labelled("kind", "stream")
def by_feedback(settings: Settings) -> Iterable[Labels]:
    """A link's stream may no longer exist; a report may name none."""
    links = ("unsubscribe", "undo", "preference", "untrack")
    yield from product(links, [*_marketing(settings), "unknown"])
    if settings.feedback is not None:
        yield from product(FEEDBACK_KINDS, [*_streams(settings), "unknown"])
