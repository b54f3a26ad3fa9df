"""The characters a path may hold without quotes."""

import string

import pytest

from smtpproxy.mail.address import PathError, read_path

LETTERS = set(string.ascii_letters + string.digits + "_\x80é\uffff\U00010000\U0010ffff")
LABEL = LETTERS | {"-"}
DOT_ATOM = LETTERS | set(".!#$%&'*+/=?^_`{|}~-")  # RFC 5322's atext, and dots anywhere
ASCII_AND_SOME = [*map(chr, range(128)), "\x80", "é", "\uffff", "\U00010000", "\U0010ffff"]


def _taken(path: str) -> bool:
    try:
        return read_path(path) == (path.strip("<>"), len(path))
    except PathError:
        return False


@pytest.mark.parametrize(
    ("written", "allowed"),
    [
        ("<a{}b@x.test>", DOT_ATOM),
        ("<{}@x.test>", DOT_ATOM),
        ("<a@b{}c.test>", LABEL | {"."}),
        ("<a@{}b.test>", LETTERS),
        ("<a@b{}.test>", LETTERS),
    ],
)
def test_each_character_in_a_path(written: str, allowed: set[str]) -> None:
    taken = {each for each in ASCII_AND_SOME if _taken(written.format(each))}
    assert taken == allowed
