"""Every metric there is: name, kind, labels, meaning, and the rows that start at zero.

docs/metrics.md says the same for people; a test holds the two together.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from smtpproxy.events import STAGES
from smtpproxy.policy.model import Action, Basis, Mode, Origin, Reason, Stream, StreamClass
from smtpproxy.settings import ListenerSettings, Settings
from smtpproxy.sinks.snapshot import Labels

PREFIX = "smtpproxy_"

Rows = Callable[[Settings], Iterable[Labels]]

CodeClass = Literal["2xx", "3xx", "4xx", "5xx", "none"]
CODE_CLASSES: tuple[str, ...] = get_args(CodeClass)
FAILING_PARTS = ("store", "audit", "upstream", "spool", "internal")
REFUSAL_CAUSES = ("limit", "address_limit", "draining")
SCOPE_KINDS = ("all", "marketing", "purpose")
READY_PARTS = ("workers", "listeners", "store", "upstream")

_SUPPRESSED = tuple(Reason(f"suppressed_{origin}") for origin in Origin)
_FOR_MESSAGES = (
    Reason.HEADER_MALFORMED,
    Reason.STREAM_NOT_PERMITTED,
    Reason.SENDER_NOT_PERMITTED,
    Reason.RECIPIENTS_REFUSED,
)
_FOR_MARKETING_MESSAGES = (
    Reason.UNSUBSCRIBE_MISSING,
    Reason.UNSUBSCRIBE_MALFORMED,
    Reason.ONE_CLICK_MISSING,
)
_NOT_NOW = frozenset({Reason.STREAM_PAUSED, Reason.TEMPORARY_FAILURE})
_FOR_RECIPIENTS = tuple(
    reason
    for reason in Reason
    if reason not in {Reason.NONE, *_SUPPRESSED, *_FOR_MESSAGES, *_FOR_MARKETING_MESSAGES}
    and reason not in _NOT_NOW
)  # on marketing streams, besides suppressions

Verdicts = tuple[tuple[Action, Reason], ...]


def _verdicts(*refusals: Reason, paused: bool = False) -> Verdicts:
    deferred = [Reason.TEMPORARY_FAILURE, *([Reason.STREAM_PAUSED] if paused else [])]
    return (
        (Action.ALLOW, Reason.NONE),
        *((Action.REFUSE, reason) for reason in refusals),
        *((Action.DEFER, reason) for reason in deferred),
    )


def message_verdicts(stream_class: StreamClass) -> Verdicts:
    """Return what can happen to a message on a stream of that class."""
    if stream_class is StreamClass.MARKETING:
        return _verdicts(*_FOR_MESSAGES, *_FOR_MARKETING_MESSAGES, paused=True)
    return _verdicts(*_FOR_MESSAGES)


def recipient_verdicts(stream_class: StreamClass) -> Verdicts:
    """Return what can happen to a recipient on a stream of that class."""
    if stream_class is StreamClass.MARKETING:
        return _verdicts(*_SUPPRESSED, *_FOR_RECIPIENTS, paused=True)
    return _verdicts(*_SUPPRESSED)


def bases(stream_class: StreamClass) -> tuple[Basis, ...]:
    if stream_class is StreamClass.MARKETING:
        return tuple(basis for basis in Basis if basis is not Basis.TRANSACTIONAL)
    return (Basis.TRANSACTIONAL,)


def _streams(settings: Settings) -> Iterable[Stream]:
    return settings.streams.values()


def _reachable(settings: Settings, listener: ListenerSettings) -> Iterable[Stream]:
    """Yield the streams that mail from this listener can be on."""
    names = dict.fromkeys(listener.streams)
    if listener.default_stream is None:
        names["default"] = None
    return (settings.streams[name] for name in names if name in settings.streams)


def _listener_streams(settings: Settings) -> Iterable[tuple[str, Stream]]:
    for listener in settings.listeners:
        for stream in _reachable(settings, listener):
            yield listener.name, stream


def _none(settings: Settings) -> Iterable[Labels]:
    return ()


def _one(settings: Settings) -> Iterable[Labels]:
    return ((),)


def _by_listener(settings: Settings) -> Iterable[Labels]:
    return ((listener.name,) for listener in settings.listeners)


def _by_stream(settings: Settings) -> Iterable[Labels]:
    return ((stream.name,) for stream in _streams(settings))


def _by_listener_and_stream(settings: Settings) -> Iterable[Labels]:
    return ((listener, stream.name) for listener, stream in _listener_streams(settings))


def _by_verdict(verdicts: Callable[[StreamClass], Verdicts]) -> Rows:
    def rows(settings: Settings) -> Iterable[Labels]:
        for listener, stream in _listener_streams(settings):
            for action, reason in verdicts(stream.stream_class):
                yield listener, stream.name, str(action), str(reason)

    return rows


def _by_basis(settings: Settings) -> Iterable[Labels]:
    for stream in _streams(settings):
        for basis in bases(stream.stream_class):
            yield stream.name, str(basis)


def _observed(settings: Settings) -> Iterable[Labels]:
    for stream in _streams(settings):
        if stream.mode is Mode.OBSERVE:
            kind = stream.stream_class
            verdicts = dict.fromkeys((*recipient_verdicts(kind), *message_verdicts(kind)))
            for action, reason in verdicts:
                if action is not Action.ALLOW:
                    yield stream.name, str(reason)


def _listeners_and(values: Iterable[str]) -> Rows:
    kept = tuple(values)
    return lambda settings: product((x.name for x in settings.listeners), kept)


def _each(values: Iterable[str]) -> Rows:
    rows = tuple((value,) for value in values)
    return lambda settings: rows


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. `zeros` yields the label rows that are shown before anything happens."""

    name: str  # without the prefix
    kind: Literal["counter", "gauge", "histogram", "info"]
    labels: tuple[str, ...]
    help: str
    zeros: Rows = _none


FAMILIES: tuple[Family, ...] = (
    Family(
        "messages_total",
        "counter",
        ("listener", "stream", "verdict", "reason"),
        "Messages judged at the end of data. In observe mode: what would have been done.",
        _by_verdict(message_verdicts),
    ),
    Family(
        "recipients_total",
        "counter",
        ("listener", "stream", "verdict", "reason"),
        "Recipients judged. In observe mode: what would have been done.",
        _by_verdict(recipient_verdicts),
    ),
    Family(
        "allowed_total",
        "counter",
        ("stream", "basis"),
        "Recipients allowed, by the basis on which they may be mailed.",
        _by_basis,
    ),
    Family(
        "relayed_total",
        "counter",
        ("listener", "stream", "code_class"),
        "Messages put to the upstream, by the class of its final answer.",
        lambda settings: (
            (*row, code_class)
            for row in _by_listener_and_stream(settings)
            for code_class in CODE_CLASSES
            if code_class != "3xx"
        ),
    ),
    Family(
        "message_bytes_total",
        "counter",
        ("listener", "stream"),
        "Bytes of the messages that the upstream accepted.",
        _by_listener_and_stream,
    ),
    Family(
        "observed_refusals_total",
        "counter",
        ("stream", "reason"),
        "Messages and recipients that observe mode let pass and enforce mode would not have.",
        _observed,
    ),
    Family(
        "undecided_total",
        "counter",
        ("stream",),
        "Messages and recipients that observe mode let pass though nothing could be decided.",
        _by_stream,
    ),
    Family(
        "unsubscribe_encoded_total",
        "counter",
        ("stream",),
        "Messages whose List-Unsubscribe field held encoded words, which RFC 2369 forbids.",
        _by_stream,
    ),
    Family(
        "transaction_seconds",
        "histogram",
        ("listener",),
        "Time the relay took for a message, without the client's own time.",
        _by_listener,
    ),
    Family(
        "stage_seconds",
        "histogram",
        ("stage",),
        "Time spent on a message in each stage.",
        _each(STAGES),
    ),
    Family(
        "connections",
        "gauge",
        ("listener",),
        "Client connections open now.",
        _by_listener,
    ),
    Family(
        "connections_total",
        "counter",
        ("listener",),
        "Client connections accepted.",
        _by_listener,
    ),
    Family(
        "connections_refused_total",
        "counter",
        ("listener", "cause"),
        "Client connections answered 421 at once, by cause.",
        _listeners_and(REFUSAL_CAUSES),
    ),
    Family(
        "upstream_connections",
        "gauge",
        ("state",),
        "Connections to the upstream open now.",
        _each(("idle", "busy")),
    ),
    Family(
        "upstream_replies_total",
        "counter",
        ("code_class",),
        "Replies of the upstream to MAIL, RCPT, DATA and the end of data; none: no answer.",
        _each(CODE_CLASSES),
    ),
    Family(
        "failures_total",
        "counter",
        ("listener", "part"),
        "Trouble of the relay's own, answered 451, by the part that failed.",
        _listeners_and(FAILING_PARTS),
    ),
    Family(
        "suppressions",
        "gauge",
        ("scope", "origin"),
        "Suppressions in the store.",
    ),
    Family("contacts", "gauge", (), "Contacts in the store."),
    Family(
        "ready",
        "gauge",
        ("part",),
        "1 when the part works, 0 when not; /readyz says the same.",
    ),
    Family("workers", "gauge", (), "Relay processes that are alive.", _one),
    Family(
        "workers_configured",
        "gauge",
        (),
        "Relay processes that there should be.",
    ),
    Family(
        "worker_exits_total",
        "counter",
        (),
        "Relay processes that ended while the relay went on.",
        _one,
    ),
    Family(
        "cpu_seconds_total",
        "counter",
        (),
        "Processor time used by all relay processes.",
        _one,
    ),
    Family(
        "observe_mode",
        "gauge",
        ("stream",),
        "1 when the stream is only observed, 0 when the rules are enforced.",
    ),
    Family(
        "start_time_seconds",
        "gauge",
        (),
        "When the relay was started, in Unix time.",
    ),
    Family("build_info", "info", ("version",), "The version that runs."),
    Family("config_info", "info", ("hash",), "The configuration that runs, by its hash."),
)
