"""Counts what happens in one worker, cheaply enough for the mail path.

`prometheus_client`'s own counters take a lock and several calls for each increment;
here one is a dictionary update, and the library only writes the page (`collector`).
"""

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

from smtpproxy.events import (
    Authentication,
    ConnectionClosed,
    ConnectionOpened,
    ConnectionRefused,
    Decided,
    DnsAsked,
    Event,
    EventHandlers,
    Failed,
    FilesRead,
    Limited,
    ProxyHeaderRead,
    Relayed,
    SenderRefused,
    Stage,
    TlsHandshake,
    TransactionEnded,
    WorkFailed,
)
from smtpproxy.policy.model import (
    Action,
    Basis,
    ContentFeatures,
    Reason,
    TrackingPixels,
    UndeclaredBulk,
    Verdict,
)
from smtpproxy.policy.rules.message import is_undeclared_bulk
from smtpproxy.sinks.snapshots import LATENCY_BUCKETS, Histogram, Labels, Samples, Snapshot

K = TypeVar("K")
N = TypeVar("N", int, float)


class _Latency:
    """A histogram that is still being filled.

    Observing only appends to a list; the snapshot, once a second, does the rest.
    """

    __slots__ = ("_counts", "_seen", "_sum", "observe")

    def __init__(self) -> None:
        self._counts = [0] * (len(LATENCY_BUCKETS) + 1)
        self._sum = 0.0
        self._seen: list[float] = []
        self.observe = self._seen.append

    def add(self, seen: Sequence[float]) -> None:
        for bucket in map(_bucket_of, seen):
            self._counts[bucket] += 1
        self._sum = sum(seen, self._sum)

    def frozen(self) -> Histogram:
        self.add(self._seen)
        self._seen.clear()
        return Histogram(tuple(self._counts), self._sum)


class _Stages:
    """The latency of each stage of messages. Those with the same stages are added up together."""

    __slots__ = ("_latencies", "seen")

    def __init__(self) -> None:
        self._latencies: defaultdict[str, _Latency] = defaultdict(_Latency)
        self.seen: defaultdict[tuple[Stage, ...], list[tuple[float, ...]]] = defaultdict(list)

    def frozen(self) -> dict[Labels, Histogram]:
        for stages, seen in self.seen.items():
            for stage, seconds in zip(stages, zip(*seen, strict=True), strict=True):
                self._latencies[stage].add(seconds)
        self.seen.clear()
        return {(stage,): latency.frozen() for stage, latency in self._latencies.items()}


_bucket_of = partial(bisect_left, LATENCY_BUCKETS)
_PASSED = Verdict(Action.ALLOW)
_Judged = tuple[str, str, Action, Reason, Basis | None, bool]
"""Listener, stream and verdict of a recipient, and whether allowed mail was to be relayed."""

_COUNTED = (
    *("messages_total", "observed_refusals_total", "undeclared_bulk_total"),
    *("tracking_pixels_total", "undecided_total", "unsubscribe_encoded_total"),
    *("connections_total", "connections_refused_total", "connections_ended_total"),
    *("limited_total", "proxy_headers_total", "tls_handshakes_total"),
    *("certificate_reloads_total", "auth_total", "senders_refused_total"),
    *("failures_total", "background_failures_total", "dns_lookups_total"),
)
"""Counted at the event itself. Other counters are summed up from `_recipients` and `_answered` for
each snapshot, so that a message costs one increment in each."""


class _Answered:
    """Messages with one class of final reply, their recipients and octets."""

    __slots__ = ("messages", "octets", "recipients")

    def __init__(self) -> None:
        self.messages = self.recipients = self.octets = 0


class Metrics:
    """The sink that counts. Call it, or the event's handler, with every event, from one thread.

    Label values are in the order of the metric's labels in `families`. `replies` counts those of
    the upstream by their first digit (0: none came), where they arrive.
    """

    def __init__(self, cpu_seconds: Callable[[], float] = time.process_time) -> None:
        self.replies: defaultdict[int, int] = defaultdict(int)  # a Counter takes twice as long
        self._cpu_seconds = cpu_seconds
        self._counts: dict[str, defaultdict[Labels, float]] = {
            name: defaultdict(int) for name in _COUNTED
        }
        self._messages = self._counts["messages_total"]
        self._recipients: defaultdict[_Judged, float] = defaultdict(int)
        self._answered: defaultdict[tuple[str, str, int], _Answered] = defaultdict(_Answered)
        self._connections: defaultdict[Labels, float] = defaultdict(int)
        self._expiries: dict[Labels, float] = {}
        self._usable: dict[Labels, float] = {}
        self._transactions: defaultdict[str, _Latency] = defaultdict(_Latency)
        self._stages = _Stages()
        self._pool: dict[str, dict[Labels, float]] = {}
        self._replica: dict[str, dict[Labels, float]] = {}
        self._replica_reads: dict[Labels, float] = {}
        self.handlers: EventHandlers = {
            ConnectionOpened: self._connection_opened,
            ConnectionClosed: self._connection_closed,
            ConnectionRefused: self._connection_refused,
            ProxyHeaderRead: self._proxy_header_read,
            TlsHandshake: self._tls_handshake,
            Authentication: self._authentication,
            SenderRefused: self._sender_refused,
            Limited: self._limited_command,
            FilesRead: self._files_read,
            Decided: self._decided,
            Relayed: self._relayed_message,
            TransactionEnded: self._transaction_ended,
            DnsAsked: self._dns_asked,
            Failed: self._failed,
            WorkFailed: self._work_failed,
        }

    def __call__(self, event: Event) -> None:
        handle = self.handlers.get(type(event))
        if handle is not None:
            handle(event)

    def mailed(self) -> Mapping[str, int]:
        """Return how many recipients were mailed, by stream."""
        return _summed((stream, one.recipients) for _, stream, one in self._delivered())

    def _delivered(self) -> Iterator[tuple[str, str, _Answered]]:
        for (listener, stream, digit), answered in self._answered.items():
            if digit == 2:
                yield listener, stream, answered

    def upstream(
        self, idle: int, busy: int, *, limit: int = 0, waiting: int = 0, saturated: bool = False
    ) -> None:
        """Record how many connections to the upstream there are now, and how many messages wait."""
        self._pool = {
            "upstream_connections": {("idle",): idle, ("busy",): busy},
            "upstream_connections_limit": {(): limit},
            "upstream_waiting": {(): waiting},
            "upstream_saturated_workers": {(): int(saturated)},
        }

    def replica_reads(self, reads: Mapping[str, int]) -> None:
        """Record how many reads each server of the store has answered."""
        self._replica_reads = {(server,): n for server, n in reads.items()}

    def replica(self, lag: float, *, unused: bool) -> None:
        """Record how far the standby is behind, in seconds; in one worker only."""
        self._replica = {"replica_lag_seconds": {(): lag}, "replica_unused": {(): int(unused)}}

    def certificate(self, listener: str, expires: float, *, usable: bool) -> None:
        """Record when a listener's certificate expires, and whether its files can still be used;
        in one worker only, as gauges add up."""
        self._expiries[(listener,)] = expires
        self._usable[(listener,)] = int(usable)

    def snapshot(self) -> Snapshot:
        """Return everything counted since this worker started."""
        return Snapshot(
            counters={
                **{name: _plain(counts) for name, counts in self._counts.items()},
                "recipients_total": _summed(
                    (_text(judged[:4]), n) for judged, n in self._recipients.items()
                ),
                "allowed_total": _summed(
                    (_text((stream, basis)), n)
                    for (_, stream, _, _, basis, relayed), n in self._recipients.items()
                    if relayed and basis is not None
                ),
                "relayed_total": _summed(
                    ((listener, stream, _code_class(digit)), answered.messages)
                    for (listener, stream, digit), answered in self._answered.items()
                ),
                "message_bytes_total": {
                    (listener, stream): one.octets for listener, stream, one in self._delivered()
                },
                "mailed_total": {(stream,): n for stream, n in self.mailed().items()},
                "upstream_replies_total": _summed(
                    ((_code_class(digit),), n) for digit, n in self.replies.items()
                ),
                "replica_reads_total": self._replica_reads,
                "cpu_seconds_total": {(): self._cpu_seconds()},
            },
            gauges={
                "connections": _plain(self._connections),
                "certificate_expiry_timestamp_seconds": _plain(self._expiries),
                "certificate_usable": _plain(self._usable),
                **self._pool,
                **self._replica,
                "workers": {(): 1},
            },
            histograms={
                "transaction_seconds": {(k,): h.frozen() for k, h in self._transactions.items()},
                "stage_seconds": self._stages.frozen(),
            },
        )

    def _connection_opened(self, event: ConnectionOpened) -> None:
        labels = (event.listener,)
        self._counts["connections_total"][labels] += 1
        self._connections[labels] += 1

    def _connection_closed(self, event: ConnectionClosed) -> None:
        self._connections[(event.listener,)] -= 1
        self._counts["connections_ended_total"][(event.listener, event.cause)] += 1

    def _connection_refused(self, event: ConnectionRefused) -> None:
        self._counts["connections_refused_total"][(event.listener, event.cause)] += 1

    def _proxy_header_read(self, event: ProxyHeaderRead) -> None:
        self._counts["proxy_headers_total"][(event.listener, event.outcome)] += 1

    def _tls_handshake(self, event: TlsHandshake) -> None:
        self._counts["tls_handshakes_total"][(event.listener, event.outcome)] += 1

    def _authentication(self, event: Authentication) -> None:
        self._counts["auth_total"][(event.listener, event.mechanism, event.outcome)] += 1

    def _sender_refused(self, event: SenderRefused) -> None:
        self._counts["senders_refused_total"][(event.listener,)] += 1

    def _limited_command(self, event: Limited) -> None:
        self._counts["limited_total"][(event.listener, event.limit)] += 1

    def _files_read(self, event: FilesRead) -> None:
        if event.what == "certificate":
            outcome = "ok" if event.error is None else "failed"
            self._counts["certificate_reloads_total"][(event.listener, outcome)] += 1

    def _decided(self, event: Decided) -> None:
        decision, relayed = event.decision, event.relayed
        listener, stream = event.client.listener, decision.stream.name
        judged = self._recipients
        for recipient in event.recipients:
            verdict = recipient.verdict
            judged[listener, stream, verdict.action, verdict.reason, verdict.basis, relayed] += 1
        if event.stage == "data":
            message, features = decision.message or _PASSED, event.features
            self._messages[listener, stream, message.action, message.reason] += 1
            if features is not None:
                if features.unsubscribe_encoded:
                    self._counts["unsubscribe_encoded_total"][(stream,)] += 1
                if features.content is not None:
                    self._count_content(event, features.content)
        if event.observed:
            self._observed_only(event, stream)

    def _count_content(self, event: Decided, content: ContentFeatures) -> None:
        stream, features = event.decision.stream, event.features
        if content.declared_stream is not None:
            self._counts["undeclared_bulk_total"][
                (content.declared_stream, UndeclaredBulk.MARKETING)
            ] += 1
        elif features is not None and is_undeclared_bulk(stream, features):
            self._counts["undeclared_bulk_total"][(stream.name, stream.undeclared_bulk)] += 1
        action = _tracking_action(event) if content.pixels else None
        if action is not None:
            self._counts["tracking_pixels_total"][(stream.name, action)] += 1

    def _observed_only(self, event: Decided, stream: str) -> None:
        if event.undecided:
            self._counts["undecided_total"][(stream,)] += 1
        verdicts = [recipient.verdict for recipient in event.recipients]
        if event.decision.message is not None:
            verdicts.append(event.decision.message)
        for verdict in verdicts:
            if verdict.action is not Action.ALLOW:
                self._counts["observed_refusals_total"][(stream, verdict.reason)] += 1

    def _relayed_message(self, event: Relayed) -> None:
        answered = self._answered[event.listener, event.stream, event.code // 100]
        answered.messages += 1
        answered.recipients += event.recipients
        answered.octets += event.size

    def _transaction_ended(self, event: TransactionEnded) -> None:
        self._transactions[event.listener].observe(event.seconds)
        stages = event.stages
        if stages:
            self._stages.seen[tuple(stages)].append(tuple(stages.values()))

    def _dns_asked(self, event: DnsAsked) -> None:
        self._counts["dns_lookups_total"][(event.outcome,)] += 1

    def _failed(self, event: Failed) -> None:
        self._counts["failures_total"][(event.listener, event.part)] += 1
        if event.stream is not None:
            labels = (event.listener, event.stream, Action.DEFER, Reason.TEMPORARY_FAILURE)
            self._recipients[(*labels, None, False)] += event.recipients
            self._messages[labels] += event.messages

    def _work_failed(self, event: WorkFailed) -> None:
        self._counts["background_failures_total"][(event.work,)] += 1


def _code_class(digit: int) -> str:
    return f"{digit}xx" if 2 <= digit <= 5 else "none"


def _text(labels: Iterable[object]) -> Labels:
    return tuple(map(str, labels))


def _plain(counts: Mapping[Labels, float]) -> Samples:
    return {_text(labels): value for labels, value in counts.items()}


def _summed(counts: Iterable[tuple[K, N]]) -> dict[K, N]:
    found: dict[K, N] = {}
    for key, value in counts:
        found[key] = found[key] + value if key in found else value
    return found


def _tracking_action(event: Decided) -> str | None:
    """Return what was done about tracking pixels; None if the message stopped for other reasons."""
    stream, verdicts = event.decision.stream, event.decision.recipients
    unconsented = Reason.TRACKING_UNCONSENTED
    if not event.observed and any(verdict.reason is unconsented for verdict in verdicts):
        return "refused"
    if not event.relayed:
        return None
    if any(verdict.unconsented_pixels or verdict.reason is unconsented for verdict in verdicts):
        strips = stream.tracking_pixels is TrackingPixels.STRIP and not event.observed
        return "stripped" if strips else "passed"
    return "consented"
