"""A real Prometheus with the shipped configuration watches a relay in use."""

import math
import re
from functools import partial
from typing import Any

from smtpproxy.sinks.families import FAMILIES, PREFIX
from tests.deploy.dashboard import QUERIES, VARIABLES
from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.prometheus import Watched

pytestmark = needs("prometheus")

WINDOW = "15s"  # Grafana's value for $__rate_interval
COUNTED = (
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
)
TYPES = {"counter": "counter", "gauge": "gauge", "histogram": "histogram", "info": "info"}


def test_the_scrape_works(watched: Watched) -> None:
    def scraped() -> list[dict[str, str]]:
        targets = watched.prometheus.api("targets")["activeTargets"]
        return [target for target in targets if target["health"] != "unknown"]

    [target] = wait_for(scraped, "the first scrape")
    assert (target["health"], target["lastError"]) == ("up", "")
    wait_for(lambda: watched.prometheus.value('up{job="smtpproxy"}') == 1, "the scrape to be kept")


def test_prometheus_knows_the_type_of_each_metric(watched: Watched) -> None:
    wait_for(lambda: watched.prometheus.value("smtpproxy_contacts"), "the first scrape")
    known = {
        name: entries[0]["type"]
        for name, entries in watched.prometheus.api("metadata").items()
        if name.startswith(PREFIX)
    }
    expected = {}
    for family in FAMILIES:
        # Prometheus asks for OpenMetrics, whose families have no suffix
        suffix = {"counter": "_total", "info": "_info"}.get(family.kind, "")
        expected[PREFIX + family.name.removesuffix(suffix)] = TYPES[family.kind]
    expected["smtpproxy_connections_total"] = "unknown"  # docs/metrics.md says why
    expected["smtpproxy_connections"] = "gauge"
    assert known == expected


def test_counts_grow_with_the_mail(watched: Watched) -> None:
    accepted = 'sum(smtpproxy_relayed_total{code_class="2xx",stream="offers"})'
    before = wait_for(lambda: watched.prometheus.value(accepted) or 0.0, "accepted mail")
    wait_for(lambda: (watched.prometheus.value(accepted) or 0.0) > before, "more of it")


def test_relayed_mail_was_counted(watched: Watched) -> None:
    for expression in COUNTED:
        moved = f"sum({expression}) > 0"
        wait_for(partial(watched.prometheus.query, moved), expression)


def test_a_healthy_relay_raises_no_alert(watched: Watched) -> None:
    prometheus = watched.prometheus
    wait_for(lambda: prometheus.value("smtpproxy_contacts"), "the first scrape")

    def evaluated() -> list[dict[str, str]]:
        [group] = prometheus.api("rules")["groups"]
        return [rule for rule in group["rules"] if rule["health"] != "unknown"]

    rules = wait_for(evaluated, "the first evaluation")
    assert [rule["lastError"] for rule in rules if rule["health"] != "ok"] == []
    firing = prometheus.query('ALERTS{alertstate="firing"}')
    assert [alert["metric"]["alertname"] for alert in firing] == []


def filled_in(expression: str) -> str:
    """The query as Grafana sends it with everything selected."""
    expression = expression.replace("$__rate_interval", WINDOW)
    for name in VARIABLES:
        expression = re.sub(rf"\$\{{?{name}\b\}}?", ".*", expression)
    assert "$" not in expression, expression
    return expression


def test_every_query_of_the_dashboard_finds_data(watched: Watched) -> None:
    def numbers(expression: str) -> list[dict[str, Any]]:
        result = watched.prometheus.query(filled_in(expression))
        return [series for series in result if math.isfinite(float(series["value"][1]))]

    for title, expression, legend in QUERIES:
        found = wait_for(partial(numbers, expression), f"data for {title}: {expression}")
        for label in re.findall(r"\{\{(\w+)\}\}", legend):
            assert all(series["metric"].get(label) for series in found), (title, label)


def test_every_variable_of_the_dashboard_has_values(watched: Watched) -> None:
    for name in VARIABLES.keys() - {"datasource"}:
        query = VARIABLES[name]["definition"]
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", query).groups()  # type: ignore[union-attr]
        match = {"match[]": filled_in(selector)}
        wait_for(partial(watched.prometheus.api, f"label/{label}/values", **match), query)
