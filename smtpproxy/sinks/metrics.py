"""Counts what happens in one worker, cheaply enough for the mail path, and adds up many workers.

`prometheus_client`'s own counters take a lock and several calls for each increment;
here one is a dictionary update, and the library only writes the page (`collector`).
"""

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Self

import msgspec

from smtpproxy.events import (
    Authentication,
    ConnectionClosed,
    ConnectionOpened,
    ConnectionRefused,
    Decided,
    DnsAsked,
    Event,
    Failed,
    FilesRead,
    Limited,
    ProxyHeaderRead,
    Relayed,
    SenderRefused,
    TlsHandshake,
    TransactionEnded,
)
from smtpproxy.policy.model import (
    Action,
    ContentFeatures,
    Reason,
    TrackingPixels,
    UndeclaredBulk,
)
from smtpproxy.policy.rules.message import is_undeclared_bulk

Labels = tuple[str, ...]
Samples = Mapping[Labels, float]


class Histogram(msgspec.Struct, frozen=True, array_like=True):
    """Observations by bucket, each counted once, and their sum in the metric's unit.

    `counts` has one place for each bound of `LATENCY_BUCKETS` and one for all above.
    """

    counts: tuple[int, ...]
    sum: float

    def __add__(self, other: "Histogram") -> "Histogram":
        counts = tuple(map(int.__add__, self.counts, other.counts))
        return Histogram(counts, self.sum + other.sum)


class Snapshot(msgspec.Struct, frozen=True):
    """What was counted since the process began, by metric name without its prefix.

    Only what has moved is in it; the collector fills in the zeros.
    """

    counters: Mapping[str, Samples] = {}
    gauges: Mapping[str, Samples] = {}
    histograms: Mapping[str, Mapping[Labels, Histogram]] = {}

    def with_gauges(self, gauges: Mapping[str, Samples]) -> "Snapshot":
        return Snapshot(self.counters, {**self.gauges, **gauges}, self.histograms)

    def encode(self) -> bytes:
        """Return it as MessagePack, to go from process to process."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises `msgspec.DecodeError` when `data` is no snapshot."""
        return msgspec.msgpack.decode(data, type=cls)


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return the sum of counters, gauges and histograms."""
    counters: dict[str, dict[Labels, float]] = {}
    gauges: dict[str, dict[Labels, float]] = {}
    histograms: dict[str, dict[Labels, Histogram]] = {}
    for snapshot in snapshots:
        _add(counters, snapshot.counters)
        _add(gauges, snapshot.gauges)
        for name, rows in snapshot.histograms.items():
            total = histograms.setdefault(name, {})
            for labels, histogram in rows.items():
                total[labels] = total[labels] + histogram if labels in total else histogram
    return Snapshot(counters, gauges, histograms)


def _add(totals: dict[str, dict[Labels, float]], more: Mapping[str, Samples]) -> None:
    for name, rows in more.items():
        total = totals.setdefault(name, {})
        for labels, value in rows.items():
            total[labels] = total.get(labels, 0) + value


class Totals:
    """All workers together, the dead ones included: what was counted never goes down.

    A worker has its own key, never reused by another process
    (its process id and start time, say).
    """

    def __init__(self) -> None:
        self._live: dict[Hashable, Snapshot] = {}
        self._retired = Snapshot()

    def update(self, worker: Hashable, snapshot: Snapshot) -> None:
        """Replace what is known of a worker by its newest snapshot."""
        self._live[worker] = snapshot

    def retire(self, worker: Hashable, *, takes_mail: bool = True) -> None:
        """Keep what a dead process had counted; what it had open is gone."""
        last = self._live.pop(worker, Snapshot())
        ended = Snapshot(counters={"worker_exits_total": {(): 1}} if takes_mail else {})
        counted = Snapshot(counters=last.counters, histograms=last.histograms)
        self._retired = merge((self._retired, counted, ended))

    def merged(self) -> Snapshot:
        return merge((self._retired, *self._live.values()))


LATENCY_BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)  # seconds


class _Latency:
    """A histogram that is still being filled."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BUCKETS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        self.sum += seconds

    def frozen(self) -> Histogram:
        return Histogram(tuple(self.counts), self.sum)


class Metrics:
    """The sink that counts. Call it with every event, from one thread only.

    Label values are in the order of the metric's labels in `families`. `replies`, the upstream's by
    the first digit of their code (0: none came), are counted where they come.
    """

    def __init__(self, cpu_seconds: Callable[[], float] = time.process_time) -> None:
        self.replies: Counter[int] = Counter()
        self._cpu_seconds = cpu_seconds
        self._messages: defaultdict[Labels, float] = defaultdict(int)
        self._recipients: defaultdict[Labels, float] = defaultdict(int)
        self._allowed: defaultdict[Labels, float] = defaultdict(int)
        self._relayed: defaultdict[Labels, float] = defaultdict(int)
        self._bytes: defaultdict[Labels, float] = defaultdict(int)
        self.mailed: defaultdict[str, int] = defaultdict(int)  # recipients, by stream
        self._observed: defaultdict[Labels, float] = defaultdict(int)
        self._bulk: defaultdict[Labels, float] = defaultdict(int)
        self._tracking: defaultdict[Labels, float] = defaultdict(int)
        self._undecided: defaultdict[Labels, float] = defaultdict(int)
        self._encoded: defaultdict[Labels, float] = defaultdict(int)
        self._opened: defaultdict[Labels, float] = defaultdict(int)
        self._refused: defaultdict[Labels, float] = defaultdict(int)
        self._ended: defaultdict[Labels, float] = defaultdict(int)
        self._limited: defaultdict[Labels, float] = defaultdict(int)
        self._proxied: defaultdict[Labels, float] = defaultdict(int)
        self._handshakes: defaultdict[Labels, float] = defaultdict(int)
        self._authentications: defaultdict[Labels, float] = defaultdict(int)
        self._certificates: defaultdict[Labels, float] = defaultdict(int)
        self._senders: defaultdict[Labels, float] = defaultdict(int)
        self._expiries: dict[Labels, float] = {}
        self._failures: defaultdict[Labels, float] = defaultdict(int)
        self._lookups: defaultdict[Labels, float] = defaultdict(int)
        self._connections: defaultdict[Labels, float] = defaultdict(int)
        self._transactions: defaultdict[str, _Latency] = defaultdict(_Latency)
        self._stages: defaultdict[str, _Latency] = defaultdict(_Latency)
        self._pool: dict[str, dict[Labels, float]] = {}
        self._replica: dict[str, dict[Labels, float]] = {}
        self._replica_reads: dict[Labels, float] = {}
        self._counting: dict[type, Callable[[Any], None]] = {
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
        }

    def __call__(self, event: Event) -> None:
        count = self._counting.get(type(event))
        if count is not None:
            count(event)

    def upstream(
        self, idle: int, busy: int, *, limit: int = 0, waiting: int = 0, saturated: bool = False
    ) -> None:
        """Say how many connections to the upstream there are now, and who waits for one."""
        self._pool = {
            "upstream_connections": {("idle",): idle, ("busy",): busy},
            "upstream_connections_limit": {(): limit},
            "upstream_waiting": {(): waiting},
            "upstream_saturated_workers": {(): int(saturated)},
        }

    def replica_reads(self, reads: Mapping[str, int]) -> None:
        """Say how many reads each server of the store has answered."""
        self._replica_reads = {(server,): n for server, n in reads.items()}

    def replica(self, lag: float, *, unused: bool) -> None:
        """Say how far the standby is behind, in seconds; in one worker only."""
        self._replica = {"replica_lag_seconds": {(): lag}, "replica_unused": {(): int(unused)}}

    def certificate(self, listener: str, expires: float) -> None:
        """Say until when a listener's certificate is good; in one worker only: gauges add up."""
        self._expiries[(listener,)] = expires

    def snapshot(self) -> Snapshot:
        """Return everything counted since this worker began."""
        return Snapshot(
            counters={
                "messages_total": _plain(self._messages),
                "recipients_total": _plain(self._recipients),
                "allowed_total": _plain(self._allowed),
                "relayed_total": _plain(self._relayed),
                "message_bytes_total": _plain(self._bytes),
                "mailed_total": {(stream,): n for stream, n in self.mailed.items()},
                "observed_refusals_total": _plain(self._observed),
                "undeclared_bulk_total": _plain(self._bulk),
                "tracking_pixels_total": _plain(self._tracking),
                "undecided_total": _plain(self._undecided),
                "unsubscribe_encoded_total": _plain(self._encoded),
                "connections_total": _plain(self._opened),
                "connections_refused_total": _plain(self._refused),
                "connections_ended_total": _plain(self._ended),
                "limited_total": _plain(self._limited),
                "proxy_headers_total": _plain(self._proxied),
                "tls_handshakes_total": _plain(self._handshakes),
                "certificate_reloads_total": _plain(self._certificates),
                "auth_total": _plain(self._authentications),
                "senders_refused_total": _plain(self._senders),
                "failures_total": _plain(self._failures),
                "dns_lookups_total": _plain(self._lookups),
                "upstream_replies_total": {
                    (_CODE_CLASSES.get(digit, "none"),): n for digit, n in self.replies.items()
                },
                "replica_reads_total": self._replica_reads,
                "cpu_seconds_total": {(): self._cpu_seconds()},
            },
            gauges={
                "connections": _plain(self._connections),
                "certificate_expiry_timestamp_seconds": _plain(self._expiries),
                **self._pool,
                **self._replica,
                "workers": {(): 1},
            },
            histograms={
                "transaction_seconds": {(k,): h.frozen() for k, h in self._transactions.items()},
                "stage_seconds": {(k,): h.frozen() for k, h in self._stages.items()},
            },
        )

    def _connection_opened(self, event: ConnectionOpened) -> None:
        labels = (event.listener,)
        self._opened[labels] += 1
        self._connections[labels] += 1

    def _connection_closed(self, event: ConnectionClosed) -> None:
        self._connections[(event.listener,)] -= 1
        self._ended[(event.listener, event.cause)] += 1

    def _connection_refused(self, event: ConnectionRefused) -> None:
        self._refused[(event.listener, event.cause)] += 1

    def _proxy_header_read(self, event: ProxyHeaderRead) -> None:
        self._proxied[(event.listener, event.outcome)] += 1

    def _tls_handshake(self, event: TlsHandshake) -> None:
        self._handshakes[(event.listener, event.outcome)] += 1

    def _authentication(self, event: Authentication) -> None:
        self._authentications[(event.listener, event.mechanism, event.outcome)] += 1

    def _sender_refused(self, event: SenderRefused) -> None:
        self._senders[(event.listener,)] += 1

    def _limited_command(self, event: Limited) -> None:
        self._limited[(event.listener, event.limit)] += 1

    def _files_read(self, event: FilesRead) -> None:
        if event.what == "certificate":
            outcome = "ok" if event.error is None else "failed"
            self._certificates[(event.listener, outcome)] += 1

    def _decided(self, event: Decided) -> None:
        listener = event.client.listener
        stream = event.decision.stream.name
        recipients = self._recipients
        for recipient in event.recipients:
            verdict = recipient.verdict
            recipients[(listener, stream, verdict.action, verdict.reason)] += 1
            if event.relayed and verdict.basis is not None and verdict.action is Action.ALLOW:
                self._allowed[(stream, verdict.basis)] += 1
        if event.stage == "data":
            message = event.decision.message
            if message is None:
                self._messages[(listener, stream, Action.ALLOW, Reason.NONE)] += 1
            else:
                self._messages[(listener, stream, message.action, message.reason)] += 1
            if event.features is not None:
                if event.features.unsubscribe_encoded:
                    self._encoded[(stream,)] += 1
                if event.features.content is not None:
                    self._count_content(event, event.features.content)
        if event.observed:
            self._observed_only(event, stream)

    def _count_content(self, event: Decided, look: ContentFeatures) -> None:
        stream, features = event.decision.stream, event.features
        if look.declared_stream is not None:
            self._bulk[(look.declared_stream, UndeclaredBulk.MARKETING)] += 1
        elif features is not None and is_undeclared_bulk(stream, features):
            self._bulk[(stream.name, stream.undeclared_bulk)] += 1
        action = _tracking_action(event) if look.pixels else None
        if action is not None:
            self._tracking[(stream.name, action)] += 1

    def _observed_only(self, event: Decided, stream: str) -> None:
        if event.undecided:
            self._undecided[(stream,)] += 1
        verdicts = [recipient.verdict for recipient in event.recipients]
        if event.stage == "data" and event.decision.message is not None:
            verdicts.append(event.decision.message)
        for verdict in verdicts:
            if verdict.action is not Action.ALLOW:
                self._observed[(stream, verdict.reason)] += 1

    def _relayed_message(self, event: Relayed) -> None:
        code_class = _CODE_CLASSES.get(event.code // 100, "none")
        self._relayed[(event.listener, event.stream, code_class)] += 1
        if code_class == "2xx":
            self._bytes[(event.listener, event.stream)] += event.size
            self.mailed[event.stream] += event.recipients

    def _transaction_ended(self, event: TransactionEnded) -> None:
        self._transactions[event.listener].observe(event.seconds)
        for stage, seconds in event.stages:
            self._stages[stage].observe(seconds)

    def _dns_asked(self, event: DnsAsked) -> None:
        self._lookups[(event.outcome,)] += 1

    def _failed(self, event: Failed) -> None:
        self._failures[(event.listener, event.part)] += 1
        if event.stream is not None:
            labels = (event.listener, event.stream, Action.DEFER, Reason.TEMPORARY_FAILURE)
            self._recipients[labels] += event.recipients
            self._messages[labels] += event.messages


_CODE_CLASSES = {2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}


def _plain(counts: dict[Labels, float]) -> dict[Labels, float]:
    return {tuple(map(str, labels)): value for labels, value in counts.items()}


def _tracking_action(event: Decided) -> str | None:
    """What was done about a tracking pixel; None where the message did not come to that."""
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
