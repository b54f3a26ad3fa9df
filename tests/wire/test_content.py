"""Where content ends, and the treatment of a lone CR or LF."""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpproxy.wire.content import (
    BareNewlineError,
    ContentReader,
    bare_newline,
    stuffed,
    stuffed_pieces,
    unstuffed,
    unstuffed_pieces,
)
from smtpproxy.wire.session import BareNewline
from tests.wire.feeding import SIZES, cut, quick

END = b"\r\n.\r\n"
TRAILING = st.sampled_from(
    [b"", b"MAIL FROM:<a@shop.example>\r\n", b".\r\n", b"\r\n.\r\n", b"\n", b"\r"]
)
BARE = st.sampled_from(["reject", "normalize"])

octets = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"x", b"\0", b"\r\n", b"\r\n.", b"\xe9"]), max_size=24
).map(b"".join)


class Result(NamedTuple):
    content: bytes
    ended: bool
    rest: bytes


def read(bare: BareNewline, data: bytes, sizes: Sequence[int] = ()) -> Result:
    """Feed the data up to the end of content, as the engine does."""
    reader = ContentReader(bare)
    content, ended, rest = b"", False, b""
    for piece in cut(data, sizes):
        if ended:
            rest += piece
            continue
        chunk, ended = reader.feed(piece)
        assert not chunk.endswith(b"\r"), "a CRLF was split between chunks"
        content += chunk
        rest = reader.rest
    return Result(content, ended, rest)


def parted(data: bytes) -> tuple[bytes, bool]:
    """An independent definition of the content: everything before the first CRLF.CRLF."""
    content, end, _ = (b"\r\n" + data).partition(END)
    return (content + b"\r\n")[2:] if end else data, bool(end)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\r\n",
        b"x\r\n",
        b"Subject: x\r\n\r\nbody\r\n",
        b"..\r\n",
        b".x\r\n",
        b"..\r\n..\r\n\r\n",
        b"a\r\n.b\r\n",
        b"a\r\n..\r\nb\r\n",
        b"a\r\n...\r\n",
        b"a.\r\n",
        b"a\r\n\r\n\r\n",
        b"x" * 5000 + b"\r\n",
        b"caf\xe9 \xff\xfe\r\n",
        b"n\0l\r\n",
        b"a\r\n. \r\n",
    ],
)
@quick
@given(trailing=TRAILING, bare=BARE, sizes=SIZES)
@example(trailing=b".\r\n", bare="reject", sizes=[1])
@example(trailing=b".\r\n", bare="normalize", sizes=[10_000])
def test_content_is_returned_as_sent(
    content: bytes, trailing: bytes, bare: BareNewline, sizes: list[int]
) -> None:
    """It is raw, with the transparency dots still in place."""
    assert read(bare, content + b".\r\n" + trailing, sizes) == Result(content, True, trailing)


@pytest.mark.parametrize("stray", [b"\r", b"\n"])
@pytest.mark.parametrize("position", range(len(b"ab\r\n..c\r\n\r\nd\r\n.")))
def test_a_stray_newline_is_refused_anywhere(position: int, stray: bytes) -> None:
    content = b"ab\r\n..c\r\n\r\nd\r\n."
    data = content[:position] + stray + content[position:] + b"\r\nmore\r\n.\r\n"
    for size in range(1, len(data) + 1):
        with pytest.raises(BareNewlineError) as error:
            read("reject", data, [size])
        assert error.value.name == {b"\r": "<CR>", b"\n": "<LF>"}[stray]


SMUGGLING = {
    "LF.LF": (b"a\n.\nMAIL\r\n", b"a\r\n..\r\nMAIL\r\n"),
    "LF.CRLF": (b"a\n.\r\nMAIL\r\n", b"a\r\n..\r\nMAIL\r\n"),
    "CRLF.LF": (b"a\r\n.\nMAIL\r\n", b"a\r\n..\r\nMAIL\r\n"),
    "CRLF.LF.CRLF": (b"a\r\n.\n.\r\nMAIL\r\n", b"a\r\n..\r\n..\r\nMAIL\r\n"),
    "CR.CR": (b"a\r.\rMAIL\r\n", b"a . MAIL\r\n"),
    "CRLF.CR": (b"a\r\n.\rMAIL\r\n", b"a\r\n. MAIL\r\n"),
    "CR.CRLF": (b"a\r.\r\nMAIL\r\n", b"a .\r\nMAIL\r\n"),
    "CRLF.CRCRLF": (b"a\r\n.\r\r\nMAIL\r\n", b"a\r\n. \r\nMAIL\r\n"),
    "CRCRLF.CRCRLF": (b"a\r\r\n.\r\r\nMAIL\r\n", b"a \r\n. \r\nMAIL\r\n"),
    "LFCR.LFCR": (b"a\n\r.\n\rMAIL\r\n", b"a\r\n .\r\n MAIL\r\n"),
    "LFLF.LFLF": (b"a\n\n.\n\nMAIL\r\n", b"a\r\n\r\n..\r\n\r\nMAIL\r\n"),
    "at the beginning .LF": (b".\nMAIL\r\n", b"..\r\nMAIL\r\n"),
    "at the beginning LF.LF": (b"\n.\nMAIL\r\n", b"\r\n..\r\nMAIL\r\n"),
    "at the beginning .CR": (b".\rMAIL\r\n", b". MAIL\r\n"),
    "at the end CRLF.LF": (b"a\r\n.\n\r\n", b"a\r\n..\r\n\r\n"),
    "at the end LF": (b"a\n\r\n", b"a\r\n\r\n"),
    "at the end CR": (b"a\r\r\n", b"a \r\n"),
}
"""A dot between newlines, one of them bare: as sent and as normalized."""


@pytest.mark.parametrize("name", SMUGGLING)
@quick
@given(sizes=SIZES)
@example(sizes=[1])
def test_smuggling_is_refused_or_disarmed_by_normalizing(name: str, sizes: list[int]) -> None:
    sent, harmless = SMUGGLING[name]
    with pytest.raises(BareNewlineError):
        read("reject", sent + b".\r\n", sizes)
    trailing = b"RCPT TO:<b@people.example>\r\n"
    assert read("normalize", sent + b".\r\n" + trailing, sizes) == Result(harmless, True, trailing)


@pytest.mark.parametrize("inside", [b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\r\0\n.\r\n", b"\r\n.\r\0\n"])
def test_a_nul_makes_no_terminator(inside: bytes) -> None:
    result = read("normalize", b"a" + inside + b"b\r\n.\r\n")
    assert result.ended
    assert result.content.endswith(b"b\r\n")


def as_lines(content: bytes) -> bytes:
    """Normalizing defined by lines, as a reader that accepts bare LF sees them, CRs as spaces.

    A client that follows RFC 5321 did not dot-stuff a line that exists only because of a bare LF.
    """
    lines = []
    stuff = False
    for line in re.findall(rb".*?(?:\n|\Z)", content, re.DOTALL):
        whole = line.endswith(b"\r\n")
        text = line.removesuffix(b"\r\n" if whole else b"\n").replace(b"\r", b" ")
        ends_now = line.endswith(b"\n")
        if text.startswith(b".") and (stuff or (text == b"." and ends_now and not whole)):
            text = b"." + text
        lines.append(text + (b"\r\n" if ends_now else b""))
        stuff = ends_now and not whole
    return b"".join(lines)


@quick
@given(octets, SIZES)
@example(b"a\r\n.\nb\r\n.\r\n", [1])
def test_normalized_content_holds_no_stray_newline_and_no_terminator(
    data: bytes, sizes: list[int]
) -> None:
    result = read("normalize", data + END, sizes)
    content, ended = parted(data + END)
    assert result.ended is ended is True
    assert result.content == as_lines(content)
    assert bare_newline(result.content) is None
    assert END not in b"\r\n" + result.content
    assert END not in b"Received: x\r\n" + result.content


def outcome(bare: BareNewline, data: bytes, sizes: Sequence[int] = ()) -> Result | str:
    try:
        return read(bare, data, sizes)
    except BareNewlineError as error:
        return error.name


@quick
@given(octets, SIZES, BARE)
def test_the_outcome_does_not_depend_on_how_input_is_cut(
    data: bytes, sizes: list[int], bare: BareNewline
) -> None:
    assert outcome(bare, data + END, sizes) == outcome(bare, data + END)


def test_every_short_content_is_normalized_to_harmless_lines() -> None:
    """All strings of up to six octets with a terminator, each cut in three ways."""
    for length in range(7):
        for parts in itertools.product((b"\r", b"\n", b".", b"x"), repeat=length):
            data = b"".join(parts) + END
            expected = as_lines(parted(data)[0])
            assert END not in b"\r\n" + expected
            for sizes in ((), (1,), (2,)):
                assert read("normalize", data, sizes).content == expected, (data, sizes)


@quick
@given(octets, SIZES)
def test_reject_passes_exactly_content_without_stray_newlines(
    data: bytes, sizes: list[int]
) -> None:
    content, _ = parted(data + END)
    if re.search(rb"(?<!\r)\n|\r(?!\n)", content):
        with pytest.raises(BareNewlineError):
            read("reject", data + END, sizes)
    else:
        assert read("reject", data + END, sizes).content == content


@quick
@given(octets, SIZES)
def test_content_returned_early_is_never_wrong(data: bytes, sizes: list[int]) -> None:
    """Whatever follows, the part already returned stays valid."""
    early = read("normalize", data, sizes)
    assert read("normalize", data + END).content.startswith(early.content)


@pytest.mark.parametrize("piece", [b"\r", b"\n", b".", b"\n.", b"\r\n.\n", b"\r\n..", b"x"])
def test_only_a_few_octets_are_held_back(piece: bytes) -> None:
    """Otherwise an endless line would stay in memory."""
    reader = ContentReader("normalize")
    given_out = 0
    for number in range(1, 200):
        chunk, _ = reader.feed(piece)
        given_out += len(chunk)
        assert given_out >= number * len(piece) - 8


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", None),
        (b"a\r\n", None),
        (b"a\nb\rc", "<LF>"),
        (b"a\rb\nc", "<CR>"),
        (b"\n\r", "<LF>"),
        (b"\r\r\n", "<CR>"),
        (b"\r\n\n", "<LF>"),
        (b"a\r\nb\rc\nd", "<CR>"),
    ],
)
def test_the_first_stray_newline_is_reported(data: bytes, name: str | None) -> None:
    assert bare_newline(data) == name


def test_a_stray_newline_is_found_in_every_short_text() -> None:
    for size in range(7):
        for letters in itertools.product(b"\r\na\xff", repeat=size):
            data = bytes(letters)
            stray = re.search(rb"(?<!\r)\n|\r(?!\n)", data)
            found = stray and {b"\r": "<CR>", b"\n": "<LF>"}[stray[0]]
            assert bare_newline(data) == found, data


@quick
@given(octets)
@example(b".\r\n..\r\n")
def test_stuffing_is_undone_by_unstuffing(content: bytes) -> None:
    assert unstuffed(stuffed(content)) == content


@quick
@given(octets, SIZES)
@example(b"a\r\n.b\r\n.", [1, 1])
def test_pieces_are_stuffed_and_unstuffed_like_the_whole(content: bytes, sizes: list[int]) -> None:
    assert b"".join(stuffed_pieces(cut(content, sizes))) == stuffed(content)
    assert b"".join(unstuffed_pieces(cut(content, sizes))) == unstuffed(content)


@quick
@given(octets)
def test_stuffed_content_holds_no_terminator(content: bytes) -> None:
    whole = stuffed(content) + END
    assert parted(whole)[0] == whole[:-3]


@pytest.mark.parametrize(
    ("stuffed_", "plain"),
    [
        (b"..\r\n", b".\r\n"),
        (b"a\r\n..b\r\n", b"a\r\n.b\r\n"),
        (b"...\r\n", b"..\r\n"),
        (b".a\r\n", b"a\r\n"),  # from a client that did not stuff, the dot is lost (RFC 5321 4.5.2)
        (b"a.\r\nb..c\r\n", b"a.\r\nb..c\r\n"),
    ],
)
def test_one_leading_dot_is_removed_from_each_line(stuffed_: bytes, plain: bytes) -> None:
    assert unstuffed(stuffed_) == plain
