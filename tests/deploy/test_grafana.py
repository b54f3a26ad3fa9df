"""The dashboard: it can be imported, and every query of it finds data."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.sinks.families import FAMILIES, PREFIX
from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.prometheus import Watched

FILE = Path(__file__).parents[2] / "config" / "grafana" / "smtpproxy.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
GRAPHS = [panel for panel in PANELS if panel["type"] != "row"]
QUERIES = [
    (panel["title"], target["expr"], target["legendFormat"])
    for panel in GRAPHS
    for target in panel["targets"]
]
VARIABLES = {v["name"]: v for v in DASHBOARD["templating"]["list"]}
WINDOW = "15s"  # what Grafana would put for $__rate_interval


def filled_in(expression: str) -> str:
    """The query as Grafana sends it with everything chosen."""
    expression = expression.replace("$__rate_interval", WINDOW)
    for name in VARIABLES:
        expression = re.sub(rf"\$\{{?{name}\b\}}?", ".*", expression)
    assert "$" not in expression, expression
    return expression


@needs("prometheus")
@pytest.mark.parametrize(("title", "expression", "legend"), QUERIES)
def test_every_query_finds_data(watched: Watched, title: str, expression: str, legend: str) -> None:
    def numbers() -> list[dict[str, Any]]:
        result = watched.prometheus.query(filled_in(expression))
        return [series for series in result if math.isfinite(float(series["value"][1]))]

    found = wait_for(numbers, f"data for {title}: {expression}")
    for label in re.findall(r"\{\{(\w+)\}\}", legend):
        assert all(series["metric"].get(label) for series in found), label


@needs("prometheus")
@pytest.mark.parametrize("name", [name for name in VARIABLES if name != "datasource"])
def test_every_variable_has_values(watched: Watched, name: str) -> None:
    query = VARIABLES[name]["definition"]
    selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", query).groups()  # type: ignore[union-attr]

    def values() -> list[str]:
        path = f"label/{label}/values"
        return list(watched.prometheus.api(path, **{"match[]": filled_in(selector)}))

    assert wait_for(values, query)


def test_the_data_source_is_the_users_choice() -> None:
    assert VARIABLES["datasource"]["type"] == "datasource"
    for panel in GRAPHS:
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_every_panel_shows_the_chosen_relays() -> None:
    for title, expression, _ in QUERIES:
        for selector in re.findall(r"smtpproxy_\w+(\{[^}]*\})?", expression):
            assert 'instance=~"$instance"' in selector, (title, expression)


SHARED = "suppressions|feedback_total|feedback_reports|stream_sent|stream_heard"


def test_what_relays_share_is_counted_once() -> None:
    """The numbers of the store are the same on each relay of it (docs/metrics.md)."""
    shared = [expression for _, expression, _ in QUERIES if re.search(SHARED, expression)]
    for expression in shared:
        assert re.search(rf"max by \([\w, ]+\) \((rate\()?smtpproxy_({SHARED})\{{", expression)


def test_panels_have_room_and_names_of_their_own() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


def test_queries_ask_for_metrics_that_there_are() -> None:
    names = {PREFIX + family.name for family in FAMILIES}
    used = set(re.findall(r"smtpproxy_\w+", " ".join(expression for _, expression, _ in QUERIES)))
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in used} <= names


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(expression for _, expression, _ in QUERIES)
    assert [f.name for f in FAMILIES if f"{PREFIX}{f.name}" not in shown] == []
