"""Invariant: the text of any message is read in linear time, without error, within its limit."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.mime import MimeLimits, read_body
from smtpproxy.mail.visible_html import read_html
from smtpproxy.mail.visible_text import folded, visible_text
from smtpproxy.policy.bulk_text import mentions_unsubscribing, newsletter_signs
from smtpproxy.policy.content_checks import fingerprint
from tests.fuzz.hostile import flood, octets
from tests.kit.soak import LONGEST, times

pytestmark = [pytest.mark.soak, pytest.mark.timeout(LONGEST)]

SECONDS = 3.0  # CPU time for 200,000 octets
LIMITS = MimeLimits(depth=4, parts=12, text=300)
HEADERS = [
    b"\r\n",
    b"Content-Type: text/html\r\n\r\n",
    b"Content-Type: multipart/mixed; boundary=b\r\n\r\n",
    b"Content-Type: text/html; charset=iso-2022-jp\r\nContent-Transfer-Encoding: base64\r\n\r\n",
    b"Content-Type: text/html; charset=utf-7\r\n\r\n",
    b"Content-Transfer-Encoding: quoted-printable\r\n\r\n",
]


def read_message(raw: bytes, limits: MimeLimits) -> None:
    head, empty, body = raw.partition(b"\r\n\r\n")
    found = read_body(HeaderBlock(head + empty), body, limits)
    assert sum(len(part.text) for part in found.parts) <= limits.text
    assert len(found.parts) <= limits.parts
    shown = visible_text(found)
    assert shown.text == " ".join(shown.text.split())
    read = [
        part.text if part.plain else read_html(part.text).text for part in found.parts if part.shown
    ]
    assert shown.text == folded(" ".join(read))
    for way in shown.ways:
        begin, end = way.line
        assert 0 <= begin <= way.start <= way.end <= end <= len(shown.text) + 1
    mentions_unsubscribing(shown.text)
    newsletter_signs(shown.text)
    first = fingerprint(shown, ["jeanne.doe@b.example"], ["Jeanne Doe"])
    assert first == fingerprint(shown, ["jeanne.doe@b.example"], ["Jeanne Doe"])


@given(st.sampled_from(HEADERS), octets)
@settings(max_examples=times(100, 20_000), deadline=None)
def test_messages(header: bytes, body: bytes) -> None:
    read_message(header + body, LIMITS)
    read_message(body, LIMITS)


@given(octets)
@settings(max_examples=times(100, 20_000), deadline=None)
def test_html(raw: bytes) -> None:
    source = raw.decode("utf-8", "replace")
    shown = read_html(source)
    assert len(shown.text) <= 2 * len(source) + 2
    assert all(0 <= way.start <= way.end <= len(shown.text) for way in shown.ways)


@given(st.sampled_from(HEADERS), flood)
@settings(max_examples=times(15, 1_000), deadline=None)
def test_a_flood_of_octets_is_read_in_linear_time(header: bytes, raw: bytes) -> None:
    started = time.thread_time()
    read_message(header + raw, MimeLimits())
    assert time.thread_time() - started < SECONDS
