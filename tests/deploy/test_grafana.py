"""The structure of the dashboard; test_prometheus.py tests that its queries find data."""

import re

from smtpproxy.sinks.families import FAMILIES, PREFIX
from tests.deploy.dashboard import GRAPHS, PANELS, QUERIES, VARIABLES


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


def test_numbers_shared_by_relays_are_counted_once() -> None:
    """Every relay reports the same numbers of a shared store (docs/metrics.md)."""
    shared = [expression for _, expression, _ in QUERIES if re.search(SHARED, expression)]
    assert shared
    for expression in shared:
        assert re.search(rf"max by \([\w, ]+\) \((rate\()?smtpproxy_({SHARED})\{{", expression)


def test_panels_do_not_overlap_and_have_unique_names() -> None:
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


def test_the_dashboard_queries_existing_metrics() -> None:
    names = {PREFIX + family.name for family in FAMILIES}
    used = set(re.findall(r"smtpproxy_\w+", " ".join(expression for _, expression, _ in QUERIES)))
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in used} <= names


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(expression for _, expression, _ in QUERIES)
    assert [f.name for f in FAMILIES if f"{PREFIX}{f.name}" not in shown] == []
