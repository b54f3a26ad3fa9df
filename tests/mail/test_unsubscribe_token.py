"""Tokens of unsubscribe links: they decode to what they encode, and nothing else decodes."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpproxy.events import encoded
from smtpproxy.mail.address import AddressError, canonical
from smtpproxy.mail.unsubscribe_token import (
    LONGEST,
    TokenError,
    TokenRing,
    Unsubscription,
    fits,
    stream_tag,
)
from tests.kit.soak import times

RING = TokenRing({1: bytes(range(64))})
ID = "01JKB3Q00020CT1R0RZ1H6E7A8"
OFFERS = stream_tag("offers")
KEY_TEXT = f"hmac:1a2b3c4d:{'5e' * 16}:{'7f' * 32}"
TOLD = Unsubscription("jeanne@people.example", "purpose:offers", ID, OFFERS)

purposes = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", fullmatch=True)
brands = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True)
scopes = st.one_of(
    st.just("marketing"), purposes.map("purpose:{}".format), brands.map("brand:{}".format)
)
ids = st.integers(0, 2**128 - 1).map(lambda number: encoded(number, 26))
labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
locals_ = st.one_of(
    st.text(min_size=1, max_size=64).map(
        lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    ),
    st.from_regex(r"[a-z0-9.+_-]{1,64}", fullmatch=True),
)


@st.composite
def addresses(draw: st.DrawFn) -> str:
    domain = ".".join(draw(st.lists(labels, min_size=1, max_size=4)))
    try:
        return canonical(f"{draw(locals_)}@{domain}")
    except AddressError:
        return "jeanne@people.example"


@given(addresses(), scopes, ids, st.binary(min_size=4, max_size=4))
@settings(max_examples=times(60, 3_000), deadline=None)
def test_every_address_is_decoded_or_does_not_fit(
    address: str, scope: str, id: str, stream: bytes
) -> None:
    told = Unsubscription(address, scope, id, stream)
    if not fits(address, scope):
        with pytest.raises(ValueError, match="room"):
            RING.seal(told)
        told = Unsubscription(KEY_TEXT, scope, id)
    token = RING.seal(told)
    assert RING.open(token) == told
    assert len(token) <= LONGEST
    assert re.fullmatch(r"[A-Za-z0-9_-]+", token)


@pytest.mark.parametrize("scope", ["marketing", "brand:shop", "purpose:offers"])
def test_an_address_fits_exactly_if_there_is_room(scope: str) -> None:
    domain = f"@{'d' * 63}.example"
    length = max(n for n in range(1, 250) if fits("a" * n + domain, scope))
    RING.seal(Unsubscription("a" * length + domain, scope, ID, OFFERS))
    with pytest.raises(ValueError, match="room"):
        RING.seal(Unsubscription("a" * (length + 1) + domain, scope, ID, OFFERS))


def test_the_key_of_an_address_fits_beside_the_longest_purpose() -> None:
    told = Unsubscription(KEY_TEXT, "purpose:" + "p" * 63, ID)
    token = RING.seal(told)
    assert RING.open(token) == told
    assert len(token) <= LONGEST


def test_ordinary_addresses_fit_by_themselves() -> None:
    assert fits("a" * 64 + "@subsidiary.company.example", "purpose:newsletter")
    assert fits("jeanne.dupont@people.example", "purpose:" + "p" * 49 + "-newsletter")
    assert not fits("a" * 64 + "@" + "d" * 63 + ".example", "purpose:newsletter")


@given(st.data())
@settings(max_examples=times(60, 3_000), deadline=None)
def test_any_flipped_bit_is_refused(data: st.DataObject) -> None:
    token = RING.seal(TOLD)
    place = data.draw(st.integers(0, len(token) - 1))
    other = chr(ord(token[place]) ^ 1 << data.draw(st.integers(0, 6)))
    with pytest.raises(TokenError):
        RING.open(token[:place] + other + token[place + 1 :])


@given(st.text(max_size=220) | st.from_regex(r"[A-Za-z0-9_-]{0,220}", fullmatch=True))
def test_nothing_else_is_a_token(text: str) -> None:
    with pytest.raises(TokenError):
        RING.open(text)


def test_unused_bits_of_the_last_character_must_be_zero() -> None:
    token = next(
        t
        for n in range(3)
        if len(t := RING.seal(Unsubscription("a" * n + "b@c.example", "marketing", ID))) % 4
    )
    others = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") - {token[-1]}
    for last in others:
        with pytest.raises(TokenError):
            RING.open(token[:-1] + last)


@given(addresses(), addresses(), ids, ids)
@settings(max_examples=times(60, 3_000), deadline=None)
def test_different_contents_have_different_tokens(a: str, b: str, one: str, two: str) -> None:
    told = [Unsubscription(x if fits(x, "marketing") else KEY_TEXT, "marketing", n, OFFERS)
            for x, n in ((a, one), (b, two))]  # fmt: skip
    assert (RING.seal(told[0]) == RING.seal(told[1])) == (told[0] == told[1])


def test_a_token_reveals_nothing_about_the_person() -> None:
    token = RING.seal(TOLD)
    assert len(token) < 110  # for an ordinary address: short enough for a line of mail
    for part in ("jeanne", "people", "offers", ID.lower()):
        assert part not in token.lower()


def test_tokens_of_old_keys_are_read_and_those_of_lost_keys_are_not() -> None:
    old = RING.seal(TOLD)
    both = TokenRing({1: bytes(range(64)), 2: bytes(64)})
    assert both.open(old) == TOLD
    new = both.seal(TOLD)
    assert both.open(new) == TOLD
    assert (RING.knows(old), RING.knows(new), RING.knows("é")) == (True, False, False)
    with pytest.raises(TokenError, match="no key of version 2"):
        RING.open(new)
    with pytest.raises(TokenError, match="not sealed by us"):
        TokenRing({1: bytes(64)}).open(old)


def test_the_format_of_a_token_never_changes() -> None:
    """Links are followed years after they were sent."""
    token = RING.seal(TOLD)
    assert token == FROZEN
    assert RING.open(FROZEN) == TOLD


FROZEN = "AdM-BsDEFwTgArY-E7fTx5cqrHHEeT6LeaiyfJplm-HpnvVRwe0G8MrR5UaerIT2lvDX59oWl7TLzHSRqPy65aw"
