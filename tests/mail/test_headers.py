import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smtpproxy.mail.headers import HeaderBlock, has_long_line
from tests.kit.soak import times

BLOCK = (
    b"Received: from app\r\n\tby relay; today\r\n"
    b"From: Jeanne <jeanne@example.org>\r\n"
    b"subject:folded\r\n \r\n\tover three lines\r\n"
    b"X-Mail-Stream : offers\r\n"
    b"X-MAIL-STREAM:\toffers \r\n"
    b"X-Mail-Streams: other\r\n"
    b"X-8bit: caf\xe9\xff\r\n"
    b"Empty:\r\n"
    b"\r\n"
)


def test_values_are_unfolded_whatever_the_case_of_the_name() -> None:
    headers = HeaderBlock(BLOCK)
    assert headers.values("from") == [b"Jeanne <jeanne@example.org>"]
    assert headers.values("Received") == [b"from app\tby relay; today"]
    assert headers.values("SUBJECT") == [b"folded \tover three lines"]
    assert headers.values("x-8bit") == [b"caf\xe9\xff"]
    assert headers.values("Empty") == [b""]
    assert headers.values("To") == []


def test_a_space_before_the_colon_hides_no_field() -> None:
    """RFC 5322 4.5.8: other readers would see the field too."""
    headers = HeaderBlock(BLOCK)
    assert headers.values("X-Mail-Stream") == [b"offers", b"offers"]
    assert headers.raw_values("X-Mail-Stream") == [b" offers\r\n", b"\toffers \r\n"]
    assert headers.defect is None


def test_without_removes_exactly_the_fields_of_that_name() -> None:
    left = HeaderBlock(BLOCK).without("x-mail-stream")
    gone = b"X-Mail-Stream : offers\r\nX-MAIL-STREAM:\toffers \r\n"
    assert left == BLOCK.replace(gone, b"")
    assert HeaderBlock(BLOCK).without("subject") == BLOCK.replace(
        b"subject:folded\r\n \r\n\tover three lines\r\n", b""
    )
    assert HeaderBlock(BLOCK).without("To") == BLOCK


@pytest.mark.parametrize(
    ("raw", "left"),
    [
        (b"A: 1\r\nX: 2", b"A: 1\r\n"),
        (b"X: 2\r\nA: 1", b"A: 1"),
        (b"X: 2", b""),
        (b"X: 2\r\n\r\nX: body\r\n", b"\r\nX: body\r\n"),
        (b"\r\nX: body", b"\r\nX: body"),
    ],
)
def test_without_at_the_first_and_last_field(raw: bytes, left: bytes) -> None:
    assert HeaderBlock(raw).without("x") == left


def test_fields_are_listed_in_order_as_written() -> None:
    fields = list(HeaderBlock(b"A : 1\r\nb:2\r\n 3\r\nno field\r\n\r\nC: body").fields())
    assert fields == [(b"A ", b" 1\r\n"), (b"b", b"2\r\n 3\r\n")]


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"A : 1\r\n", 1),
        (b"A: 1 :\r\n\t:\r\nB\t: 2\r\n", 3),
        (BLOCK, 7),
        (b"A: b :\r\n c :\r\n", 0),
    ],
)
def test_a_space_before_a_colon_is_reported(raw: bytes, line: int) -> None:
    said = HeaderBlock(raw).spaced_colon
    assert said == (
        f"line {line} has a space before its colon, where some programs end the header"
        if line
        else None
    )


@pytest.mark.parametrize(
    ("value", "cut"),
    [
        (b"x" * 987, False),
        (b"x" * 988, True),
        (b"\r\n x" * 500, False),
        (b"\n" + b"x" * 990, False),
        (b"\r\n" + b"x" * 990 + b"\r\n", False),
        (b"\n" + b"x" * 991, True),
    ],
)
def test_lines_that_an_mta_cuts(value: bytes, cut: bool) -> None:
    assert has_long_line("AB", value) is cut


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n",
        b"A: 1",
        b"-A: 1\r\n",
        b"A" * 100 + b": 1\r\n",
        b"A: 1\r\n",
        b"A:\r\n\r\n",
        BLOCK,
    ],
)
def test_well_formed_headers_have_no_fault(raw: bytes) -> None:
    assert HeaderBlock(raw).defect is None


DEFECTS = [
    (b"A: 1\r\nB: \0\r\n\r\n", "a NUL in line 2"),
    (b"A: 1\rB: 2\r\n\r\n", "a CR without LF"),
    (b"A: 1\r\r\n\r\n", "a CR without LF"),
    (b"A: 1\nB: 2\r\n\r\n", "an LF without CR"),
    (b"A: 1\n\nB: 2\r\n\r\n", "an LF without CR"),
    (b" A: 1\r\n\r\n", "line 1 continues a field"),
    (b"\tA: 1\r\n\r\n", "line 1 continues a field"),
    (b"A: 1\r\n folded\r\nno field\r\nB: 2\r\n\r\n", "line 3 is not a header field"),
    (b"no field", "line 1 is not a header field"),
    (b": no name\r\n\r\n", "line 1 is not a header field"),
    (b"A: 1\r\n : no name\r\n :\r\n: x\r\n", "line 4 is not a header field"),
    (b"Two words: 1\r\n\r\n", "line 1 is not a header field"),
    (b"From jeanne@example.org Thu Jan  1 00:00:00\r\nA: 1\r\n", "line 1 is not a header field"),
    (b"Caf\xe9: 1\r\n\r\n", "line 1 is not a header field"),
    (b"\xef\xbb\xbfA: 1\r\n\r\n", "line 1 is not a header field"),
    (b"A\x7f: 1\r\n\r\n", "line 1 is not a header field"),
    (b"A\x0b: 1\r\n\r\n", "line 1 is not a header field"),
    (b"A: 1\r\nlast", "line 2 is not a header field"),
    (b"A: 1\r\n--B: 2\r\nC: 3\r\n", "line 2 has a field name that begins with --"),
    (b"A" * 101 + b": 1\r\n", "line 1 has a field name that begins with -- or is longer than 100"),
]


@pytest.mark.parametrize(("raw", "said"), DEFECTS)
def test_a_fault_is_reported_with_its_line(raw: bytes, said: str) -> None:
    defect = HeaderBlock(raw).defect
    assert defect is not None
    assert defect.startswith(said)


def test_lines_after_the_empty_line_are_not_fields() -> None:
    headers = HeaderBlock(b"A: 1\r\n\r\nA: 2\r\nno field \0\r\n")
    assert headers.values("A") == [b"1"]
    assert headers.defect is None


def test_bare_line_ends_hide_no_field() -> None:
    assert HeaderBlock(b"A: 1\nB: 2\n folded\n\nB: 3\n").values("B") == [b"2 folded"]


names = st.sampled_from([b"A", b"x-stream", b"X-Stream", b"X-STREAM", b"X-Streams", b"!~"])
spaces = st.sampled_from([b"", b" ", b"\t "])
contents = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=8).map(
    lambda text: text.encode("latin-1")
)
folds = st.sampled_from([b" ", b"\t"])


@st.composite
def fields(draw: st.DrawFn) -> bytes:
    lines = draw(st.lists(st.builds(bytes.__add__, folds, contents), max_size=2))
    first = draw(contents)
    return draw(names) + draw(spaces) + b":" + b"\r\n".join([first, *lines]) + b"\r\n"


@settings(max_examples=times(40, 3_000), suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(fields(), max_size=6), st.sampled_from([b"", b"\r\n", b"\r\nbody\r\n"]))
def test_every_field_of_a_well_formed_block_is_found(parts: list[bytes], rest: bytes) -> None:
    raw = b"".join(parts)
    headers = HeaderBlock(raw + rest)
    assert headers.defect is None
    assert b"".join(name + b":" + value for name, value in headers.fields()) == raw
    each: dict[bytes, tuple[bytes, ...]] = {}
    for name, value in headers.fields():
        lower = name.rstrip(b" \t").lower()
        each[lower] = (*each.get(lower, ()), value)
    assert headers.by_name == each
    named = [part for part in parts if part.partition(b":")[0].strip().lower() == b"x-stream"]
    assert headers.raw_values("X-Stream") == [part.partition(b":")[2] for part in named]
    kept = [part for part in parts if part not in named]
    assert headers.without("x-Stream") == b"".join(kept) + rest
    assert [value.count(b"\n") for value in headers.values("X-Stream")] == [0] * len(named)


@given(st.text("Ax:  \t\r\n\0\xe9", max_size=40).map(lambda text: text.encode("latin-1")))
def test_any_octets_are_read_without_error_and_kept(raw: bytes) -> None:
    headers = HeaderBlock(raw)
    _ = headers.defect
    left = headers.without("A")
    assert HeaderBlock(left).values("A") == []
    removed = [n + b":" + v for n, v in headers.fields() if n.strip(b" \t").lower() == b"a"]
    assert len(left) + len(b"".join(removed)) == len(raw)


HOSTILE = {
    "many fields": b"From: a\r\n",
    "many names without colon": b"From    \r\n",
    "long folding": b"From:\r\n \r\n \r\n ",
    "one long name": b"aaaaaaaaaa",
    "one long space": b"          ",
    "empty names": b":\r\n",
    "line ends": b"\r\n ",
    "bare line feeds": b"a\n",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_megabyte_of_any_input_is_read_in_linear_time(kind: str) -> None:
    """A quadratic reader would need minutes."""
    seconds = []
    for size in (500_000, 1_000_000):
        raw = b"From:" + HOSTILE[kind] * (size // len(HOSTILE[kind]))
        began = time.process_time()
        headers = HeaderBlock(raw)
        _ = headers.defect
        headers.values("From")
        headers.without("From")
        assert sum(1 for _ in headers.fields()) <= len(raw)
        seconds.append(time.process_time() - began)
    half, whole = seconds
    assert whole < max(8 * half, 0.5)
