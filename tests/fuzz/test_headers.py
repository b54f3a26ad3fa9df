"""Invariant: any header section is read in linear time, with no error but `MailboxError`.

Whatever is read as an address has exactly one reading.
"""

import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpproxy.mail.address import canonical
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.mailboxes import MailboxError, addresses
from smtpproxy.mail.mime import decode_words
from smtpproxy.mail.unsubscribe import is_one_click, read_unsubscribe
from smtpproxy.policy.bulk import bulk_signs
from smtpproxy.policy.features import read_features, read_identity
from tests.fuzz.hostile import flood, octets
from tests.kit.soak import LONGEST, times

pytestmark = [pytest.mark.soak, pytest.mark.timeout(LONGEST)]

SECONDS = 2.0  # CPU time for 200,000 octets


def read_everything(raw: bytes) -> None:
    headers = HeaderBlock(raw)
    features = read_features(headers, "X-Mail-Stream", "X-Source-Statement")
    read_identity(headers)
    bulk_signs(headers, "")
    if headers.defect is None:
        rebuilt = b"".join(name + b":" + value for name, value in headers.fields())
        assert raw.startswith(rebuilt)
    else:
        assert features.malformed is not None
    assert headers.without("X-Mail-Stream").count(b"\0") <= raw.count(b"\0")


@given(octets)
@settings(max_examples=times(100, 20_000), deadline=None)
def test_header_sections(raw: bytes) -> None:
    read_everything(raw)


@given(octets)
@settings(max_examples=times(100, 20_000), deadline=None)
def test_from_fields(value: bytes) -> None:
    for field in (value, b"Shop (" + value + b") <a@shop.test>", b'"' + value + b'" <a@shop.test>'):
        found: tuple[str, ...] = ()
        with suppress(MailboxError):
            found = addresses(field)
        for address in found:
            assert canonical(address) == address


@given(octets)
@settings(max_examples=times(100, 20_000), deadline=None)
def test_unsubscribe_fields(value: bytes) -> None:
    for field in (value, b"<https://u.shop.test/" + value, value + b", <mailto:stop@shop.test>"):
        read = read_unsubscribe(field)
        for uri in (*read.https, *read.mailto):
            assert uri.isascii()
            assert uri.isprintable()
            assert " " not in uri
        assert b"One-Click" in field or not is_one_click(field)


@given(
    flood, st.sampled_from([b"", b"From: ", b"List-Unsubscribe: <", b"Subject: ", b"Precedence:"])
)
@settings(max_examples=times(15, 1_000), deadline=None)
def test_a_flood_of_octets_is_read_in_linear_time(raw: bytes, field: bytes) -> None:
    started = time.thread_time()
    read_everything(field + raw)
    decode_words(raw.decode("utf-8", "replace"))
    assert time.thread_time() - started < SECONDS
