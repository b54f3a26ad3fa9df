"""A real Prometheus, with the configuration that ops get, on a relay in use."""

import pytest

from smtpproxy.sinks.families import FAMILIES, PREFIX
from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.prometheus import Watched

pytestmark = needs("prometheus")

TYPES = {"counter": "counter", "gauge": "gauge", "histogram": "histogram", "info": "info"}


def test_the_scrape_works(watched: Watched) -> None:
    def scraped() -> list[dict[str, str]]:
        targets = watched.prometheus.api("targets")["activeTargets"]
        return [target for target in targets if target["health"] != "unknown"]

    [target] = wait_for(scraped, "the first scrape")
    assert (target["health"], target["lastError"]) == ("up", "")
    assert watched.prometheus.value('up{job="smtpproxy"}') == 1


def test_prometheus_knows_what_each_metric_is(watched: Watched) -> None:
    wait_for(lambda: watched.prometheus.value("smtpproxy_contacts"), "the first scrape")
    known = {
        name: entries[0]["type"]
        for name, entries in watched.prometheus.api("metadata").items()
        if name.startswith(PREFIX)
    }
    expected = {}
    for family in FAMILIES:
        # Prometheus asks for OpenMetrics, which knows families without their suffix
        suffix = {"counter": "_total", "info": "_info"}.get(family.kind, "")
        expected[PREFIX + family.name.removesuffix(suffix)] = TYPES[family.kind]
    expected["smtpproxy_connections_total"] = "unknown"  # docs/metrics.md says why
    expected["smtpproxy_connections"] = "gauge"
    assert known == expected


def test_counts_grow_with_the_mail(watched: Watched) -> None:
    accepted = 'sum(smtpproxy_relayed_total{code_class="2xx",stream="offers"})'
    before = wait_for(lambda: watched.prometheus.value(accepted) or 0.0, "accepted mail")
    wait_for(lambda: (watched.prometheus.value(accepted) or 0.0) > before, "more of it")


@pytest.mark.parametrize(
    "expression",
    [
        'smtpproxy_recipients_total{reason="consent_withdrawn",stream="offers"}',
        'smtpproxy_recipients_total{reason="suppressed_complaint",stream="offers"}',
        'smtpproxy_recipients_total{reason="no_record",stream="offers"}',
        'smtpproxy_messages_total{reason="unsubscribe_missing",stream="offers"}',
        'smtpproxy_messages_total{reason="none",stream="receipts"}',
        'smtpproxy_allowed_total{basis="consent"}',
        'smtpproxy_allowed_total{basis="existing_customer"}',
        'smtpproxy_allowed_total{basis="generic_address"}',
        'smtpproxy_observed_refusals_total{stream="trial",reason="consent_withdrawn"}',
        'smtpproxy_relayed_total{stream="trial",code_class="2xx"}',
        'smtpproxy_upstream_replies_total{code_class="3xx"}',
        'smtpproxy_stage_seconds_count{stage="audit"}',
        'smtpproxy_suppressions{scope="all",origin="complaint"}',
        "smtpproxy_contacts",
        "smtpproxy_cpu_seconds_total",
    ],
)
def test_what_went_through_was_counted(watched: Watched, expression: str) -> None:
    moved = f"sum({expression}) > 0"
    wait_for(lambda: watched.prometheus.query(moved), expression)


def test_a_healthy_relay_raises_no_alarm(watched: Watched) -> None:
    prometheus = watched.prometheus
    wait_for(lambda: prometheus.value("smtpproxy_contacts"), "the first scrape")

    def evaluated() -> list[dict[str, str]]:
        [group] = prometheus.api("rules")["groups"]
        return [rule for rule in group["rules"] if rule["health"] != "unknown"]

    rules = wait_for(evaluated, "the first evaluation")
    assert [rule["lastError"] for rule in rules if rule["health"] != "ok"] == []
    firing = prometheus.query('ALERTS{alertstate="firing"}')
    assert [alert["metric"]["alertname"] for alert in firing] == []
