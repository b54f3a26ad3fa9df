"""Reading and writing DKIM-Signature fields."""

import pytest

from smtpproxy.mail.dkim import (
    TagError,
    hashed_signature,
    read_signature,
    signed_field,
    signed_names,
    unsigned_field,
)

NOW = 1_780_000_000
GOOD = {
    "v": "1",
    "a": "rsa-sha256",
    "c": "relaxed/relaxed",
    "d": "Shop.example",
    "s": "S1",
    "t": str(NOW),
    "h": "From : To:\r\n\tList-Unsubscribe",
    "bh": "aGVs\r\n bG8=",
    "b": "d29y\r\n bGQ=",
}


def _field(**changes: str | None) -> bytes:
    tags = {k: v for k, v in {**GOOD, **changes}.items() if v is not None}
    text = "; ".join(f"{name}={value}" for name, value in tags.items())
    return f"DKIM-Signature: {text}\r\n".encode()


def test_a_field_says_what_is_signed_and_by_whom() -> None:
    found = read_signature(_field(), NOW)
    assert (found.domain, found.selector) == ("shop.example", "s1")
    assert found.record_name == "s1._domainkey.shop.example"
    assert found.names == (b"from", b"to", b"list-unsubscribe")
    assert (found.body_hash, found.value) == (b"hello", b"world")
    assert found.relaxed_header
    assert found.relaxed_body
    assert found.covers(b"from", b"list-unsubscribe")
    assert not found.covers(b"list-unsubscribe-post")


def test_the_default_canonicalization_is_simple() -> None:
    found = read_signature(_field(c=None), NOW)
    assert (found.relaxed_header, found.relaxed_body) == (False, False)
    assert read_signature(_field(c="relaxed"), NOW).relaxed_body is False


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"v": "2"}, "version"),
        ({"v": None}, "no v="),
        ({"a": "rsa-sha1"}, "neither rsa-sha256"),
        ({"b": ""}, "no b="),
        ({"b": "Zm9v!"}, "not base64"),
        ({"bh": None}, "no bh="),
        ({"a": None}, "no a="),
        ({"h": None}, "no h="),
        ({"s": None}, "no s="),
        ({"d": None}, "no d="),
        ({"d": "a b"}, "d= cannot be read"),
        ({"d": "shop\0.example"}, "d= cannot be read"),
        ({"h": "to:subject"}, "does not cover From"),
        ({"c": "nowsp"}, "canonicalization"),
        ({"q": "http"}, "not in the DNS"),
        ({"i": "@other.example"}, "i= is not within its d="),
        ({"i": "@badshop.example"}, "i= is not within its d="),
        ({"l": "many"}, "l= is not a number"),
        ({"l": "1" * 5_000}, "l= is not a number"),
        ({"t": str(NOW + 3_700)}, "in the future"),
        ({"x": str(NOW - 1)}, "expired"),
        ({"x": "12"}, "expired"),
        ({"t": str(NOW - 9), "x": str(NOW - 1)}, "expired"),
        ({"t": str(NOW + 9), "x": str(NOW + 8)}, "expired"),
        ({"h": "from:" + "x:" * 20_000}, "longer than"),
    ],
)
def test_a_malformed_field_is_reported(changes: dict[str, str | None], wrong: str) -> None:
    with pytest.raises(TagError, match=wrong):
        read_signature(_field(**changes), NOW)


@pytest.mark.parametrize("text", ["", "garbage", "v=1; v=1", "v=1; 2=3", "=", "\0"])
def test_a_value_that_is_not_a_tag_list_is_reported(text: str) -> None:
    with pytest.raises(TagError):
        read_signature(f"DKIM-Signature: {text}\r\n".encode(), NOW)
    assert signed_names(f"DKIM-Signature: {text}\r\n".encode()) <= {b""}


def test_two_domains_are_an_error() -> None:
    with pytest.raises(TagError, match="d= appears twice"):
        read_signature(_field().replace(b"; s=", b"; d=evil.example; s="), NOW)


def test_a_domain_that_is_not_utf_8_is_reported() -> None:
    with pytest.raises(TagError, match="d= cannot be read"):
        read_signature(_field().replace(b"; d=", b"; d=\xff"), NOW)


def test_a_signature_may_be_dated_up_to_an_hour_ahead() -> None:
    assert read_signature(_field(t=str(NOW + 3_600)), NOW).domain == "shop.example"


@pytest.mark.parametrize("changes", [{"t": None}, {"t": None, "x": str(NOW)}, {"x": str(NOW + 9)}])
def test_a_signature_needs_no_dates(changes: dict[str, str | None]) -> None:
    assert read_signature(_field(**changes), NOW).domain == "shop.example"


def test_an_identity_below_the_domain_is_distinguished() -> None:
    assert read_signature(_field(i="news@SHOP.example"), NOW).of_domain
    assert not read_signature(_field(i="@mail.shop.example"), NOW).of_domain


@pytest.mark.parametrize("field", [_field(), _field(b=None, z="x")[:-2] + b" ;\r\n\tb = Zm9v\r\n"])
def test_the_signature_value_itself_is_not_hashed(field: bytes) -> None:
    for relaxed in (True, False):
        hashed = hashed_signature(field, relaxed=relaxed)
        assert b"d29y" not in hashed
        assert b"Zm9v" not in hashed
        assert not hashed.endswith(b"\r\n")
        assert b"aGVs" in hashed  # but bh= is


def test_a_written_field_has_short_lines_and_is_read_back() -> None:
    names = (b"from", b"from", b"subject", *[b"list-unsubscribe-post"] * 9)
    unsigned = unsigned_field("rsa-sha256", "shop.example", "s1", NOW, names, b"h" * 32)
    field = signed_field(unsigned, b"s" * 256)
    assert max(map(len, field.split(b"\r\n"))) <= 78
    found = read_signature(field, NOW)
    assert (found.names, found.body_hash, found.value) == (names, b"h" * 32, b"s" * 256)
    assert found.relaxed_header
    assert found.relaxed_body
    assert hashed_signature(field) == hashed_signature(unsigned)
