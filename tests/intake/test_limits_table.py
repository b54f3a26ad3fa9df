"""Every limit in the table of docs/limits.md has a key, a metric and a test."""

import re
import tomllib
from pathlib import Path

import pytest

from smtpproxy import settings
from smtpproxy.events import LIMITS
from smtpproxy.sinks.families import FAMILIES
from smtpproxy.sinks.rows import AUTH_OUTCOMES, ENDS, PROXY_OUTCOMES, REFUSAL_CAUSES, TLS_OUTCOMES
from smtpproxy.toml_tables import keys_of

REPOSITORY = Path(__file__).parents[2]
ROWS = [
    tuple(cell.strip(" `") for cell in line.split("|")[1:-1])
    for line in (REPOSITORY / "docs" / "limits.md").read_text().partition("\n## ")[0].splitlines()
    if line.startswith("| ") and not line.startswith("| phase |")
]
TABLES = {
    "": settings.ListenerSettings,
    "[server] ": settings.ServerSettings,
    "[auth] ": settings.AuthSettings,
    "[upstream] ": settings.UpstreamSettings,
    "[[credential]] ": settings.Credential,
}
ELSEWHERE = {"[upstream] max_connections_per_address": "three quarters of `max_connections"}
"""Defaults that come from another setting."""
VALUES = {"cause": {*REFUSAL_CAUSES, *ENDS}, "limit": {*LIMITS}}
OUTCOMES = {
    "proxy_headers_total": PROXY_OUTCOMES,
    "tls_handshakes_total": TLS_OUTCOMES,
    "auth_total": AUTH_OUTCOMES,
}
TESTS = {
    "max_connections": "test_one_connection_too_many_is_refused",
    "max_connections_per_address": "test_one_connection_too_many_is_refused",
    "files that a worker may have open, except an eighth of them": "test_a_worker_short_of_files",
    "connection_rate": "test_the_connection_rate_of_an_address",
    "PROXY header handshake_timeout": "test_a_slow_proxy_header_is_cut_off",
    "TLS handshake handshake_timeout": "test_a_slow_tls_handshake_is_cut_off",
    "greeting early_commands": "test_commands_before_the_greeting_are_not_carried_out",
    "commands early_commands": "test_content_before_354_is_refused",
    "plaintext input after STARTTLS": "test_input_behind_starttls_is_never_a_command",
    "command_timeout": "test_slow_commands_are_cut_off",
    "octets in a line: 2,048; for AUTH 12,288": "test_a_response_may_be_long_but_not_too_long",
    "max_errors": "test_dialog",
    "[auth] max_failures_per_session": "test_three_failures_end_a_session",
    "[auth] max_failures_per_address": "test_an_address_that_guesses_is_barred_for_a_while",
    "[auth] max_failures_per_user": "test_a_user_is_barred_except_from_their_usual_addresses",
    "message_rate": "test_the_message_rate_of_an_address",
    "[[credential]] message_rate": "test_the_rates_of_a_credential",
    "max_recipients": "test_the_limit_of_recipients_of_a_message",
    "max_refused_recipients": "test_refused_recipients_count_towards_the_limit",
    "max_refused_per_connection": "test_a_connection_full_of_refusals_is_closed",
    "recipient_rate": "test_the_recipient_rate_of_an_address",
    "[[credential]] recipient_rate": "test_the_rates_of_a_credential",
    "[upstream] max_connections_per_address": "test_it_cannot_hold_more_than_its_share",
    "[upstream] hold_timeout": "test_it_does_not_hold_upstream_connections",
    "[server] data_size_limit": "test_a_message_that_is_too_large_is_refused",
    "[server] header_size_limit": "test_a_header_section_that_is_too_large_is_refused",
    "[server] max_header_fields": "test_a_header_section_with_too_many_fields_is_refused",
    "data_timeout": "test_data_has_a_timeout_as_a_whole",
    "min_data_rate": "test_content_below_the_lowest_rate_is_cut_off",
}
"""By key (with the phase if a key has several), or by the limit if it has none."""


def name(row: tuple[str, ...]) -> str:
    phase, limit, key = row[0], row[1], row[2]
    if not key:
        return limit
    return f"{phase} {key}" if sum(each[2] == row[2] for each in ROWS) > 1 else key


def test_every_limit_has_a_test() -> None:
    assert [name(row) for row in ROWS] == list(TESTS)
    source = "".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    for test in TESTS.values():
        assert f"def {test}(" in source, test


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_a_limits_default_is_that_of_its_key(row: tuple[str, ...]) -> None:
    table, _, key = row[2].rpartition(" ")
    if not key:
        assert row[3] == ""
        return
    known = keys_of(TABLES[f"{table} " if table else ""])[key]
    if row[2] in ELSEWHERE:
        assert row[3] == ELSEWHERE[row[2]]
        return
    if row[3] == "*none*":
        assert known.default is None
        return
    assert known.is_default(tomllib.loads(f"value = {row[3]}")["value"])


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_a_limits_metric_can_count_it(row: tuple[str, ...]) -> None:
    found = re.fullmatch(r'(\w+)\{(\w+)="(\w+)"\}', row[5])
    assert found is not None
    family = next(each for each in FAMILIES if each.name == found[1])
    assert found[2] in family.labels
    assert found[3] in (OUTCOMES[found[1]] if found[2] == "outcome" else VALUES[found[2]])


def test_every_counted_limit_is_in_the_table() -> None:
    counted = {row[5].split('"')[1] for row in ROWS}
    assert set(LIMITS) <= counted
    assert {"slow", "timeout", "errors", "pipelining", "line_too_long"} <= counted
