"""What a worker counts, event by event."""

import pickle

import msgspec
import pytest

from smtpproxy.events import (
    ConnectionClosed,
    ConnectionOpened,
    ConnectionRefused,
    Failed,
    Relayed,
    TransactionEnded,
)
from smtpproxy.policy.model import Action, Reason, Verdict
from smtpproxy.sinks.metrics import Metrics
from smtpproxy.sinks.snapshots import LATENCY_BUCKETS, Histogram, Snapshot
from tests.kit.traffic import (
    ALLOWED,
    COMPLAINED,
    NO_CONSENT,
    NO_UNSUBSCRIBE,
    OFFERS,
    RECEIPT,
    RECEIPTS,
    TRIAL,
    busy_minute,
    decided,
)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(cpu_seconds=lambda: 1.5)


def test_a_message_counts_once_and_each_recipient_by_its_verdict(metrics: Metrics) -> None:
    metrics(decided(OFFERS, ALLOWED, ALLOWED, NO_CONSENT))
    counters = metrics.snapshot().counters
    assert counters["messages_total"] == {("apps", "offers", "allow", "none"): 1}
    assert counters["recipients_total"] == {
        ("apps", "offers", "allow", "none"): 2,
        ("apps", "offers", "refuse", "consent_missing"): 1,
    }
    assert counters["allowed_total"] == {("offers", "consent"): 2}


def test_a_refusal_at_rcpt_does_not_count_as_a_message(metrics: Metrics) -> None:
    metrics(decided(OFFERS, COMPLAINED, stage="rcpt", message=None))
    counters = metrics.snapshot().counters
    assert counters["messages_total"] == {}
    assert counters["recipients_total"] == {
        ("apps", "offers", "refuse", "suppressed_complaint"): 1,
    }


def test_message_refusals_carry_their_reason(metrics: Metrics) -> None:
    metrics(decided(OFFERS, ALLOWED, message=NO_UNSUBSCRIBE, listener="legacy"))
    counters = metrics.snapshot().counters
    assert counters["messages_total"] == {("legacy", "offers", "refuse", "unsubscribe_missing"): 1}
    assert counters["allowed_total"] == {}, "it was not sent to the upstream"


def test_a_metric_without_a_listener_label_is_the_sum_of_all(metrics: Metrics) -> None:
    for listener in ("apps", "legacy"):
        metrics(decided(OFFERS, ALLOWED, listener=listener))
        metrics(Relayed("1", listener, "offers", 250, "ok", 1000, 2))
    assert metrics.snapshot().counters["allowed_total"] == {("offers", "consent"): 2}
    assert metrics.snapshot().counters["mailed_total"] == {("offers",): 4}
    assert metrics.mailed() == {"offers": 4}


def test_a_message_without_any_rule_evaluated_counts_as_passed(metrics: Metrics) -> None:
    metrics(decided(RECEIPTS, RECEIPT, message=None))
    assert metrics.snapshot().counters["messages_total"] == {
        ("apps", "receipts", "allow", "none"): 1
    }


def test_observe_mode_counts_the_verdict_and_what_passed_despite_it(metrics: Metrics) -> None:
    metrics(decided(TRIAL, ALLOWED, NO_CONSENT, message=NO_UNSUBSCRIBE))
    counters = metrics.snapshot().counters
    assert counters["recipients_total"][("apps", "trial", "refuse", "consent_missing")] == 1
    assert counters["observed_refusals_total"] == {
        ("trial", "consent_missing"): 1,
        ("trial", "unsubscribe_missing"): 1,
    }
    assert counters["undecided_total"] == {}


def test_enforced_refusals_do_not_count_as_observed(metrics: Metrics) -> None:
    metrics(decided(OFFERS, NO_CONSENT))
    assert metrics.snapshot().counters["observed_refusals_total"] == {}


def test_undecided_mail_that_passed_is_counted(metrics: Metrics) -> None:
    metrics(decided(TRIAL, Verdict(Action.DEFER, Reason.TEMPORARY_FAILURE), undecided=True))
    assert metrics.snapshot().counters["undecided_total"] == {("trial",): 1}


def test_encoded_unsubscribe_fields_are_counted(metrics: Metrics) -> None:
    metrics(decided(OFFERS, ALLOWED, encoded=True))
    metrics(decided(OFFERS, ALLOWED))
    assert metrics.snapshot().counters["unsubscribe_encoded_total"] == {("offers",): 1}


def test_only_accepted_bytes_count(metrics: Metrics) -> None:
    metrics(Relayed("1", "apps", "offers", 250, "ok", 1000, 1))
    metrics(Relayed("2", "apps", "offers", 452, "full", 7000, 1))
    metrics(Relayed("3", "apps", "offers", 0, "", 7000, 1))
    metrics(Relayed("4", "apps", "offers", 554, "no", 7000, 1))
    counters = metrics.snapshot().counters
    assert counters["message_bytes_total"] == {("apps", "offers"): 1000}
    assert counters["relayed_total"] == {
        ("apps", "offers", "2xx"): 1,
        ("apps", "offers", "4xx"): 1,
        ("apps", "offers", "5xx"): 1,
        ("apps", "offers", "none"): 1,
    }


def test_connections_come_and_go(metrics: Metrics) -> None:
    for peer in ("192.0.2.1", "192.0.2.2"):
        metrics(ConnectionOpened("apps", peer))
    metrics(ConnectionClosed("apps", "192.0.2.1", 3.0, "timeout"))
    metrics(ConnectionRefused("apps", "192.0.2.3", "limit"))
    metrics.upstream(idle=3, busy=1)
    snapshot = metrics.snapshot()
    assert snapshot.gauges["connections"] == {("apps",): 1}
    assert snapshot.counters["connections_total"] == {("apps",): 2}
    assert snapshot.counters["connections_ended_total"] == {("apps", "timeout"): 1}
    assert snapshot.counters["connections_refused_total"] == {("apps", "limit"): 1}
    assert snapshot.gauges["upstream_connections"] == {("idle",): 3, ("busy",): 1}


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        (0.0, 0),
        (LATENCY_BUCKETS[0], 0),  # `le` means less or equal
        (LATENCY_BUCKETS[0] * 1.01, 1),
        (60.0, len(LATENCY_BUCKETS) - 1),
        (61.0, len(LATENCY_BUCKETS)),
    ],
)
def test_a_duration_falls_into_its_bucket(metrics: Metrics, seconds: float, bucket: int) -> None:
    metrics(TransactionEnded("apps", seconds, {"upstream": seconds}))
    snapshot = metrics.snapshot()
    for histogram in (
        snapshot.histograms["transaction_seconds"][("apps",)],
        snapshot.histograms["stage_seconds"][("upstream",)],
    ):
        assert [i for i, n in enumerate(histogram.counts) if n] == [bucket]
        assert histogram.sum == seconds


def test_upstream_replies_and_failures(metrics: Metrics) -> None:
    metrics.replies.update({2: 1, 0: 1})
    metrics(Failed("apps", "store", "locked"))
    counters = metrics.snapshot().counters
    assert counters["messages_total"] == counters["recipients_total"] == {}
    metrics(Failed("apps", "audit", "disk full", "offers", 3, 1))
    counters = metrics.snapshot().counters
    row = ("apps", "offers", "defer", "temporary_failure")
    assert (counters["messages_total"], counters["recipients_total"]) == ({row: 1}, {row: 3})
    assert counters["upstream_replies_total"] == {("2xx",): 1, ("none",): 1}
    assert counters["failures_total"] == {("apps", "store"): 1, ("apps", "audit"): 1}
    assert counters["cpu_seconds_total"] == {(): 1.5}


def test_an_unknown_event_is_ignored(metrics: Metrics) -> None:
    before = metrics.snapshot()
    metrics(object())  # type: ignore[arg-type]
    assert metrics.snapshot() == before


def test_a_snapshot_does_not_change(metrics: Metrics) -> None:
    metrics(decided(OFFERS, ALLOWED))
    taken = metrics.snapshot()
    for event in busy_minute():
        metrics(event)
    assert taken.counters["messages_total"] == {("apps", "offers", "allow", "none"): 1}
    assert "stage_seconds" not in {k for k, rows in taken.histograms.items() if rows}


def test_a_snapshot_goes_from_process_to_process(metrics: Metrics) -> None:
    for event in busy_minute():
        metrics(event)
    snapshot = metrics.snapshot()
    received = Snapshot.decode(snapshot.encode())
    assert received == snapshot
    assert isinstance(received.histograms["stage_seconds"][("audit",)], Histogram)
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot
    with pytest.raises(msgspec.DecodeError):
        Snapshot.decode(b"\x00")
