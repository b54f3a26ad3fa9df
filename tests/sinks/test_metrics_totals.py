"""Totals over all workers never decrease."""

from smtpproxy.events import ConnectionOpened, TransactionEnded
from smtpproxy.sinks.metrics import Metrics
from smtpproxy.sinks.snapshots import Snapshot, Totals, merge
from tests.kit.traffic import ALLOWED, OFFERS, busy_minute, decided


def worker(messages: int) -> Metrics:
    """A worker that passed `messages` and has one client connected."""
    metrics = Metrics(cpu_seconds=lambda: 2.0)
    metrics(ConnectionOpened("apps", "192.0.2.1"))
    metrics.upstream(idle=2, busy=1)
    for _ in range(messages):
        metrics(decided(OFFERS, ALLOWED))
        metrics(TransactionEnded("apps", 0.25, {}))
    return metrics


ALLOWED_ROW = ("apps", "offers", "allow", "none")


def test_merge_adds_everything() -> None:
    both = merge([worker(2).snapshot(), worker(3).snapshot()])
    assert both.counters["messages_total"][ALLOWED_ROW] == 5
    assert both.gauges["connections"] == {("apps",): 2}
    assert both.gauges["upstream_connections"] == {("idle",): 4, ("busy",): 2}
    assert both.gauges["workers"] == {(): 2}
    histogram = both.histograms["transaction_seconds"][("apps",)]
    assert (sum(histogram.counts), histogram.sum) == (5, 1.25)
    assert both.counters["cpu_seconds_total"] == {(): 4.0}


def test_merge_of_nothing_is_nothing() -> None:
    assert merge([]) == Snapshot()


def test_merging_does_not_change_its_inputs() -> None:
    one, two = worker(2).snapshot(), worker(3).snapshot()
    merge([one, two])
    assert one == worker(2).snapshot()


def test_merging_one_changes_nothing() -> None:
    metrics = Metrics(cpu_seconds=lambda: 2.0)
    for event in busy_minute():
        metrics(event)
    assert merge([metrics.snapshot()]) == metrics.snapshot()


def test_a_newer_snapshot_replaces_the_older() -> None:
    totals = Totals()
    metrics = worker(1)
    totals.update("a", metrics.snapshot())
    metrics(decided(OFFERS, ALLOWED))
    totals.update("a", metrics.snapshot())
    assert totals.merged().counters["messages_total"] == {ALLOWED_ROW: 2}


def test_a_dead_workers_counts_stay_and_its_connections_go() -> None:
    totals = Totals()
    totals.update("a", worker(2).snapshot())
    totals.update("b", worker(3).snapshot())
    totals.retire("a")
    totals.update("a2", worker(0).snapshot())
    merged = totals.merged()
    assert merged.counters["messages_total"] == {ALLOWED_ROW: 5}
    assert sum(merged.histograms["transaction_seconds"][("apps",)].counts) == 5
    assert merged.gauges["connections"] == {("apps",): 2}
    assert merged.gauges["workers"] == {(): 2}
    assert merged.counters["worker_exits_total"] == {(): 1}


def test_a_worker_that_died_before_reporting_counts_as_an_exit() -> None:
    totals = Totals()
    totals.retire("never seen")
    assert totals.merged().counters == {"worker_exits_total": {(): 1}}


def test_counters_never_fall_while_workers_die_and_come_back() -> None:
    totals = Totals()
    seen = 0.0
    for generation in range(20):
        metrics = worker(generation % 3)
        totals.update(generation, metrics.snapshot())
        now = totals.merged().counters["messages_total"].get(ALLOWED_ROW, 0)
        assert now >= seen
        totals.retire(generation)
        assert totals.merged().counters["messages_total"].get(ALLOWED_ROW, 0) == now
        seen = now
    assert seen == sum(generation % 3 for generation in range(20))
