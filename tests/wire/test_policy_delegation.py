"""Postfix's policy protocol: requests cut anywhere, limits, hostile input."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.wire.policy_delegation import (
    PolicyConnection,
    PolicyError,
    PolicyRequest,
    answer,
)
from tests.kit.policy import encode, request
from tests.wire.feeding import SIZES, cut, quick


@dataclass
class Talk:
    """The outcome of a connection."""

    requests: list[PolicyRequest] = field(default_factory=list)
    error: str | None = None
    left: int = 0  # octets


def talk(data: bytes, sizes: Sequence[int] = (), **options: int) -> Talk:
    engine, talked = PolicyConnection(**options), Talk()
    for piece in cut(data, sizes):
        engine.receive_data(piece)
        try:
            while (request := engine.next_event()) is not None:
                talked.requests.append(request)
        except PolicyError as error:
            talked.error = str(error)
            return talked
    talked.left = engine.buffered
    return talked


def settled(data: bytes, **options: int) -> Talk:
    """Feed whole, octet by octet and in odd pieces; all outcomes must be equal."""
    whole = talk(data, **options)
    for sizes in ((1,), (2,), (3, 1), (7, 5)):
        assert talk(data, sizes, **options) == whole, f"differs in pieces of {sizes}"
    return whole


def test_a_request_sent_by_postfix() -> None:
    (asked,) = settled(request(recipient="a=b@people.example", recipient_count="3")).requests
    assert asked.state == "RCPT"
    assert asked.get("recipient") == "a=b@people.example"  # only the first = separates
    assert asked.recipient_count == 3
    assert asked.get("sasl_username") == asked.get("no such attribute") == ""


def test_several_requests_and_the_beginning_of_another() -> None:
    talked = settled(request(recipient="a@x.example") + request(recipient="b@x.example") + b"req")
    assert [asked.get("recipient") for asked in talked.requests] == ["a@x.example", "b@x.example"]
    assert (talked.error, talked.left) == (None, 3)


def test_any_order_unknown_names_and_repeated_names() -> None:
    data = b"new=1\nrecipient=a@x\nrecipient=b@x\nrequest=smtpd_access_policy\n\n"
    (asked,) = settled(data).requests
    assert dict(asked.attributes) == {
        "new": "1",
        "recipient": "b@x",
        "request": "smtpd_access_policy",
    }


def test_a_request_typed_in_telnet() -> None:
    (asked,) = settled(b"request=smtpd_access_policy\r\nrecipient=a@x\r\n\r\n").requests
    assert asked.get("recipient") == "a@x"


def test_octets_that_are_not_utf_8_are_kept() -> None:
    (asked,) = settled(b"request=smtpd_access_policy\nrecipient=caf\xe9@x\n\n").requests
    assert asked.get("recipient").encode("utf-8", "surrogateescape") == b"caf\xe9@x"
    assert answer(asked.get("recipient")) == b"action=caf\xe9@x\n\n"


@pytest.mark.parametrize("count", ["", "-1", "x", "1e3", "9" * 16, "\u0661"])
def test_an_invalid_count_is_zero(count: str) -> None:
    (asked,) = settled(request(recipient_count=count)).requests
    assert asked.recipient_count == 0


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\n", "request=''"),
        (b"recipient=a@x\n\n", "request=''"),
        (b"request=junk\n\n", "request='junk'"),
        (b"EHLO client.example\r\n", "not name=value"),
        (b"=x\n", "not name=value"),
        (b"GET / HTTP/1.1\r\n", "not name=value"),
        (b"a=\0\n", "NUL"),
    ],
)
def test_malformed_requests_are_errors(data: bytes, error: str) -> None:
    assert error in (settled(data).error or "")


def test_the_longest_request_is_accepted_and_a_longer_one_is_an_error_at_once() -> None:
    whole = request(recipient="a@x.example")
    limit = len(whole)
    assert len(settled(whole + whole, request_limit=limit).requests) == 2
    assert settled(whole + whole, request_limit=limit - 1).requests == []
    assert "more than" in (settled(whole, request_limit=limit - 1).error or "")
    assert "more than" in (settled(b"x" * 101, request_limit=100).error or "")
    assert "more than" in (settled(b"a=b\n" * 26, request_limit=100).error or "")
    assert settled(b"x" * 100, request_limit=100).error is None


def test_consumed_octets_are_freed() -> None:
    engine = PolicyConnection()
    one = request(recipient="a@x.example")
    for _ in range(500):
        engine.receive_data(one + one)
        assert engine.next_event() is not None
        assert engine.next_event() is not None
    assert engine.buffered == 0
    assert len(engine._buffer) < 200_000


@pytest.mark.parametrize("action", ["DUNNO\n", "550 x\n\naction=OK", "a\rb", "\0"])
def test_an_action_is_one_line(action: str) -> None:
    with pytest.raises(ValueError, match="one line"):
        answer(action)


@quick
@given(st.binary(max_size=300) | st.just(request()), SIZES)
def test_any_octets_end_in_requests_or_an_error(data: bytes, sizes: list[int]) -> None:
    assert talk(data, sizes, request_limit=200) == talk(data, request_limit=200)


VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=30)


@quick
@given(st.lists(st.dictionaries(VALUES.filter(lambda n: n and "=" not in n), VALUES), max_size=4))
def test_requests_arrive_unchanged(asked: list[dict[str, str]]) -> None:
    asked = [each | {"request": "smtpd_access_policy"} for each in asked]
    talked = settled(b"".join(map(encode, asked)))
    assert [dict(request.attributes) for request in talked.requests] == asked
