"""The DKIM body hash: equal to dkimpy's, in one piece or many, and in linear time."""

import time
from hashlib import sha256

import pytest
from dkim.canonicalization import Relaxed, Simple
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpproxy.mail.dkim_canonical import BodyHash

LINES = st.lists(
    st.text(alphabet=" \t.abé", max_size=12).map(lambda line: line.encode() + b"\r\n"), max_size=12
).map(b"".join)


def _hash(body: bytes, cuts: list[int], **how: object) -> bytes:
    taken = BodyHash(**how)  # type: ignore[arg-type]
    places = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
    for start, end in zip(places, [*places[1:], len(body)], strict=True):
        taken.feed(body[start:end])
    return taken.digest()


@settings(deadline=None)
@given(LINES, st.lists(st.integers(0, 150), max_size=20))
def test_the_hash_equals_dkimpys_wherever_the_body_is_cut(body: bytes, cuts: list[int]) -> None:
    assert _hash(body, cuts) == sha256(Relaxed.canonicalize_body(body)).digest()
    assert _hash(body, cuts, relaxed=False) == sha256(Simple.canonicalize_body(body)).digest()


@settings(deadline=None)
@given(LINES, st.integers(0, 40))
def test_a_length_limit_omits_the_rest(body: bytes, limit: int) -> None:
    canonical = Relaxed.canonicalize_body(body)
    taken = BodyHash(limit=limit)
    taken.feed(body)
    assert taken.digest() == sha256(canonical[:limit]).digest()
    assert taken.short == (len(canonical) < limit)


@pytest.mark.parametrize(
    ("body", "canonical"),
    [  # RFC 6376 3.4.5 and 3.4.3
        (b" C \r\nD \t E\r\n\r\n\r\n", b" C\r\nD E\r\n"),
        (b"", b""),
        (b"\r\n\r\n", b""),
        (b" \t \r\n", b""),
    ],
)
def test_examples_of_the_rfc(body: bytes, canonical: bytes) -> None:
    assert _hash(body, []) == sha256(canonical).digest()


@pytest.mark.parametrize("unit", [b"\r\n", b" ", b"\t", b" \r\n", b"\r\n ", b"a \t"])
def test_hostile_bodies_cost_no_more_than_ordinary_ones(unit: bytes) -> None:
    piece = unit * (262_144 // len(unit))
    taken = BodyHash()
    start = time.process_time()
    for _ in range(40):  # 10 MB
        taken.feed(piece)
    taken.digest()
    assert time.process_time() - start < 5
