"""DKIM key records in the DNS."""

import pytest

from smtpproxy.mail.dkim import KeyRecord, TagError, read_record, zone_line


def test_a_written_record_is_read_back() -> None:
    record = KeyRecord("ed25519", b"k" * 32)
    assert read_record(str(record).encode()) == record
    assert read_record(b"p=aGVsbG8=") == KeyRecord("rsa", b"hello")
    assert read_record(b"v=DKIM1;t=y:s;p=aGVs\r\n bG8=;") == KeyRecord("rsa", b"hello", True, True)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (b"v=spf1 -all", "not a DKIM record"),
        (b"p=aGVsbG8=; v=DKIM1", "not a DKIM record"),
        (b"v=DKIM1; k=rsa", "no p="),
        (b"v=DKIM1; p=", "revoked"),
        (b"v=DKIM1; p=!!!", "not base64"),
        (b"v=DKIM1; k=dsa; p=aGVsbG8=", "key type"),
        (b"v=DKIM1; h=sha1; p=aGVsbG8=", "sha256"),
        (b"v=DKIM1; s=tlsrpt; p=aGVsbG8=", "not for mail"),
        (b"hello", "tag=value"),
    ],
)
def test_a_malformed_record_is_reported(text: bytes, wrong: str) -> None:
    with pytest.raises(TagError, match=wrong):
        read_record(text)


def test_a_long_record_is_split_into_dns_strings() -> None:
    line = zone_line("s._domainkey.shop.example", KeyRecord("rsa", b"k" * 294))
    strings = line.split('"')[1::2]
    assert all(len(string) <= 255 for string in strings)
    assert read_record("".join(strings).encode()).public == b"k" * 294
    assert line.startswith("s._domainkey.shop.example. IN TXT ( ")
