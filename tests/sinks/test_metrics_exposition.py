"""The page for Prometheus: names, labels, zeros, both formats, and its documentation."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from msgspec.structs import replace
from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from smtpproxy.events import (
    LIMITS,
    ConnectionRefused,
    Failed,
    Limited,
)
from smtpproxy.policy.model import Origin, Reason, Stream, UndeclaredBulk
from smtpproxy.sinks.collector import SnapshotCollector, store_gauges
from smtpproxy.sinks.families import FAMILIES, PREFIX
from smtpproxy.sinks.metrics import Metrics
from smtpproxy.sinks.rows import (
    FAILING_PARTS,
    REFUSAL_CAUSES,
    message_verdicts,
    recipient_verdicts,
)
from smtpproxy.sinks.snapshots import Samples, Snapshot
from tests.kit.parts import needs
from tests.kit.processes import run
from tests.kit.traffic import LISTENERS, OFFERS, RECEIPTS, busy_minute, settings

REPOSITORY = Path(__file__).parents[2]
READY: dict[str, Samples] = {
    "ready": {(part,): 1.0 for part in ("workers", "listeners", "store", "upstream")}
}


def collector(snapshot: Snapshot | None = None) -> SnapshotCollector:
    shown = SnapshotCollector(settings(), version="0.1.0", started_at=1_700_000_000.0)
    if snapshot is not None:
        shown.snapshot = snapshot.with_gauges({**store_gauges(3, {("all", "manual"): 2}), **READY})
    return shown


def busy() -> SnapshotCollector:
    metrics = Metrics()
    for event in busy_minute():
        metrics(event)
    metrics.upstream(idle=4, busy=1)
    return collector(metrics.snapshot())


def families(shown: SnapshotCollector) -> list[Metric]:
    return list(text_string_to_metric_families(generate_latest(shown).decode()))


def samples(metrics: Iterable[Metric]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in metrics
        for sample in metric.samples
    }


def sample(shown: SnapshotCollector, name: str, **labels: str) -> float:
    return samples(families(shown))[PREFIX + name, tuple(sorted(labels.items()))]


def test_all_names_and_labels_of_the_contract_exist() -> None:
    contract = """
        messages_total{listener,stream,verdict,reason}
        recipients_total{listener,stream,verdict,reason}
        allowed_total{stream,basis} message_bytes_total{listener,stream}
        transaction_seconds{listener} stage_seconds{stage} connections{listener}
        connections_total{listener} upstream_connections{state} upstream_replies_total{code_class}
        suppressions{scope,origin} contacts observed_refusals_total{stream,reason}
        build_info{version} config_info{hash} unsubscribe_encoded_total{stream}
    """
    promised = {}
    for item in contract.split():
        name, _, labels = item.rstrip("}").partition("{")
        promised[name] = set(labels.split(",")) - {""}
    shown = {
        re.sub("_(bucket|sum|count)$", "", name.removeprefix(PREFIX)): {key for key, _ in labels}
        - {"le"}
        for name, labels in samples(families(busy()))
    }
    assert {name: shown.get(name) for name in promised} == promised


def test_possible_series_start_at_zero() -> None:
    fresh = collector()
    assert (
        sample(
            fresh,
            "recipients_total",
            listener="apps",
            stream="offers",
            verdict="refuse",
            reason="consent_missing",
        )
        == 0
    )
    assert (
        sample(
            fresh,
            "messages_total",
            listener="legacy",
            stream="default",
            verdict="allow",
            reason="none",
        )
        == 0
    )
    assert sample(fresh, "transaction_seconds_bucket", listener="legacy", le="+Inf") == 0
    assert sample(fresh, "failures_total", listener="apps", part="audit") == 0
    assert sample(fresh, "observed_refusals_total", stream="trial", reason="no_record") == 0
    assert sample(fresh, "api_requests_total", token="crm", code_class="4xx") == 0
    assert sample(fresh, "api_requests_total", token="unknown", code_class="4xx") == 0


def test_impossible_series_are_not_shown() -> None:
    rows = samples(families(collector()))
    shown = [
        dict(labels)
        for name, labels in rows
        if name in {"smtpproxy_recipients_total", "smtpproxy_messages_total"}
    ]
    assert not [r for r in shown if (r["listener"], r["stream"]) == ("legacy", "offers")]
    assert not [r for r in shown if r["stream"] == "receipts" and r["reason"] == "no_record"]
    assert not [r for r in shown if r["verdict"] == "allow" and r["reason"] != "none"]


def test_rows_follow_the_configuration() -> None:
    apps = replace(
        LISTENERS[0], auth="optional", tls="starttls", proxy_protocol=True, streams=("receipts",),
        default_stream="receipts",
    )  # fmt: skip
    mta = replace(
        LISTENERS[1], name="mta", protocol="milter", streams=("offers",), default_stream="offers"
    )
    falls = replace(RECEIPTS, undeclared_bulk=UndeclaredBulk.MARKETING)
    asks = Stream(name="asks", purpose="offers", permission=True)
    config = settings()
    config = replace(
        config,
        listeners=(apps, mta),
        streams={**config.streams, "receipts": falls, "asks": asks},
        feedback=None,
        tokens=(),
    )
    rows = {each.name: set(each.rows.of(config)) for each in FAMILIES}
    judged = {row[:2] for row in rows["messages_total"]}
    assert judged == {("apps", "receipts"), ("apps", "default"), ("mta", "offers")}
    assert {row[:2] for row in rows["recipients_total"]} == judged
    assert rows["message_bytes_total"] == {("apps", "receipts"), ("apps", "default")}
    assert rows["relayed_total"] == {
        ("apps", stream, answer)
        for stream in ("receipts", "default")
        for answer in ("2xx", "4xx", "5xx", "none")
    }
    bases = Counter(stream for stream, _ in rows["allowed_total"])
    assert bases == {"default": 6, "offers": 6, "trial": 6, "receipts": 1, "asks": 1}
    assert {("receipts", "transactional"), ("asks", "permission")} <= rows["allowed_total"]
    assert {stream for stream, _ in rows["undeclared_bulk_total"]} == {"receipts"}
    assert {stream for stream, _ in rows["tracking_pixels_total"]} == {"default"}
    assert {stream for stream, _ in rows["observed_refusals_total"]} == {"trial"}
    assert ("trial", "none") not in rows["observed_refusals_total"]
    marketing = {"default", "offers", "trial", "asks"}
    assert {stream for stream, _ in rows["stream_paused"]} == marketing
    assert {stream for _, stream in rows["feedback_total"]} == {*marketing, "unknown"}
    assert rows["senders_refused_total"] == {("apps",), ("mta",)}
    for name in ("auth_total", "tls_handshakes_total", "proxy_headers_total"):
        assert {row[0] for row in rows[name]} == {"apps"}, name
    assert rows["api_requests_total"] == rows["feedback_reports"] == set()


def test_reasons_of_permission_messages_are_shown_on_their_streams_only() -> None:
    of_them = {Reason.PERMISSION_NOT_DUE, Reason.PERMISSION_REPEATED, Reason.CONFIRM_LINK_MISSING}
    for stream, shown in ((OFFERS, set()), (replace(OFFERS, permission=True), of_them)):
        verdicts = (*message_verdicts(stream), *recipient_verdicts(stream))
        assert of_them & {reason for _, reason in verdicts} == shown


def test_every_reason_belongs_to_a_verdict() -> None:
    placed = {
        reason
        for stream in (OFFERS, replace(OFFERS, permission=True), RECEIPTS)
        for verdicts in (message_verdicts, recipient_verdicts)
        for _, reason in verdicts(stream)
    }
    assert placed == set(Reason)


@pytest.mark.parametrize(
    ("values", "event", "field"),
    [
        (FAILING_PARTS, Failed, "part"),
        (REFUSAL_CAUSES, ConnectionRefused, "cause"),
        (LIMITS, Limited, "limit"),
    ],
)
def test_every_possible_value_of_an_event_is_shown(
    values: tuple[str, ...], event: type, field: str
) -> None:
    assert values == get_args(get_type_hints(event)[field])


def test_counts_match_the_events() -> None:
    shown = busy()
    assert (
        sample(
            shown,
            "messages_total",
            listener="apps",
            stream="offers",
            verdict="allow",
            reason="none",
        )
        == 7
    )
    assert sample(shown, "allowed_total", stream="receipts", basis="transactional") == 6
    assert sample(shown, "stage_seconds_count", stage="policy") == 13
    assert sample(shown, "transaction_seconds_bucket", listener="apps", le="0.0005") == 5
    assert sample(shown, "transaction_seconds_bucket", listener="apps", le="60.0") == 13
    assert sample(shown, "suppressions", scope="all", origin="manual") == 2
    assert sample(shown, "suppressions", scope="purpose", origin="bounce") == 0
    assert sample(shown, "contacts") == 3
    assert sample(shown, "workers_configured") == 2
    assert sample(shown, "observe_mode", stream="trial") == 1
    assert sample(shown, "observe_mode", stream="offers") == 0
    assert sample(shown, "build_info", version="0.1.0") == 1
    assert sample(shown, "config_info", hash="0123456789ab") == 1
    assert sample(shown, "stream_info", stream="default", brand="default") == 1
    assert sample(shown, "start_time_seconds") == 1_700_000_000.0


def test_store_metrics_are_omitted_until_counted() -> None:
    rows = samples(families(collector(None)))
    assert not [name for name, _ in rows if name in {"smtpproxy_contacts", "smtpproxy_ready"}]


def test_every_suppression_origin_is_shown() -> None:
    rows = store_gauges(0, {})["suppressions"]
    assert {origin for _, origin in rows} == set(Origin)


def test_no_name_has_two_meanings_in_openmetrics() -> None:
    shown = busy()
    text = families(shown)
    shown.openmetrics = True
    strict = list(parse_openmetrics(generate_openmetrics(shown).decode()))  # raises on a clash
    assert samples(strict) == samples(text)


def test_labels_are_closed_sets() -> None:
    """No label value comes from mail: addresses, domains and ids are never labels."""
    values = {value for _, labels in samples(families(busy())) for key, value in labels}
    assert not [value for value in values if "@" in value or "example" in value]
    assert not [value for value in values if value.startswith(("01J9", "192."))]


@needs("promtool")
@pytest.mark.parametrize("shown", [collector(), busy()], ids=["fresh", "busy"])
def test_promtool_has_no_complaints(shown: SnapshotCollector) -> None:
    done = run("promtool", "check", "metrics", stdin=generate_latest(shown))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def documented() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Kind and labels by name, from the tables of docs/metrics.md."""
    text = (REPOSITORY / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `smtpproxy_(\w+)` \| (\w+) \|(.*?)\|", text, re.MULTILINE)
    return {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_the_documented_metrics_are_those_that_exist() -> None:
    assert documented() == {family.name: (family.kind, family.labels) for family in FAMILIES}


def test_the_document_lists_every_label_value() -> None:
    text = (REPOSITORY / "docs" / "metrics.md").read_text()
    sets = dict(re.findall(r"^\| `(\w+)` \| ((?:`\w+`,? ?)+)\|$", text, re.MULTILINE))
    closed = {key: set(re.findall(r"`(\w+)`", values)) for key, values in sets.items()}
    seen: dict[str, set[str]] = {}
    for _, labels in samples(families(busy())):
        for key, value in labels:
            seen.setdefault(key, set()).add(value)
    seen["basis"].add("permission")  # on streams of that class only
    open_ended = {"listener", "stream", "brand", "reason", "version", "hash", "le"}
    open_ended |= {"webhook", "token"}
    assert closed == {key: values for key, values in seen.items() if key not in open_ended}
