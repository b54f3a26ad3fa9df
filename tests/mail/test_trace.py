"""The Received field (RFC 5321 section 4.4) and its date (RFC 5322 section 3.3)."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpproxy.mail.reply import date_time, received

AT = datetime(2026, 3, 1, 9, 5, 7, 999_999, tzinfo=UTC)


def field(**over: Any) -> bytes:
    return received(
        **{
            "helo": "client.example",
            "peer": "192.0.2.7",
            "hostname": "relay.example",
            "protocol": "ESMTP",
            "id": "01J9",
            "at": AT,
            **over,
        }
    )


def test_received() -> None:
    assert field() == (
        b"Received: from client.example ([192.0.2.7])\r\n"
        b"\tby relay.example (smtpproxy) with ESMTP id 01J9;\r\n"
        b"\tSun, 1 Mar 2026 09:05:07 +0000\r\n"
    )


@pytest.mark.parametrize(
    ("peer", "shown"),
    [
        ("192.0.2.7", b"([192.0.2.7])"),
        ("2001:db8::1", b"([IPv6:2001:db8::1])"),
        ("unix", b"(unix)"),
    ],
)
def test_the_from_clause(peer: str, shown: bytes) -> None:
    assert b"from client.example " + shown + b"\r\n" in field(peer=peer)


def test_a_single_recipient_is_named_and_several_are_not() -> None:
    assert b" id 01J9\r\n\tfor <Jeanne@people.example>;\r\n" in field(
        recipient="Jeanne@people.example"
    )
    assert b"for" not in field(recipient=None)


def test_the_field_is_ascii() -> None:
    """It can then be put in front of any message."""
    data = field(helo="bücher.example", recipient="José@people.example")
    assert data.isascii()
    assert b"from b?cher.example (" in data
    assert b"for" not in data


def test_lines_stay_short() -> None:
    data = field(helo="h" * 255, hostname="r" * 255, recipient="l" * 64 + "@" + "d" * 189)
    assert max(map(len, data.split(b"\r\n"))) <= 998
    assert all(line[:1] == b"\t" for line in data.split(b"\r\n")[1:-1])


@settings(deadline=None)
@given(st.datetimes(datetime(1970, 1, 1), datetime(2199, 1, 1)))  # noqa: DTZ001
def test_dates_are_read_by_pythons_email_package(moment: datetime) -> None:
    moment = moment.replace(tzinfo=UTC)
    text = date_time(moment)
    assert parsedate_to_datetime(text) == moment.replace(microsecond=0)
    assert moment - parsedate_to_datetime(text) < timedelta(seconds=1)
