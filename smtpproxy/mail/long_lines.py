"""What MTAs do to lines of more than 998 octets (RFC 5321 4.5.3.1.6)."""

import re

_LONGEST = 998  # octets without CRLF; smtp_line_length_limit of Postfix
_BREAK = re.compile(rb"(?<![^\n])(?:[^\r\n]{998}|[^\r\n]{989}!)\r\n ")  # of Postfix, of Sendmail


def with_broken_lines(body: bytes) -> bytes | None:
    """Return the body as Postfix delivers it; None if it leaves every line whole.

    It breaks a line at exactly that length, even within a link, and what follows begins with a
    space. Sendmail does nearly the same at 989 octets.
    """
    if not _has_long_line(body):
        return None
    lines = body.split(b"\r\n")
    return b"\r\n".join([line if len(line) <= _LONGEST else _broken(line) for line in lines])


def _has_long_line(body: bytes) -> bool:
    """Look for the last line end within reach, so that most of the body is never examined."""
    reach, begin = _LONGEST + len(b"\r\n"), 0
    while len(body) - begin > _LONGEST:
        end = body.rfind(b"\n", begin, begin + reach)
        if end < 0:
            return True
        begin = end + 1
    return False


def _broken(line: bytes) -> bytes:
    size = _LONGEST - len(b" ")
    rest = [line[begin : begin + size] for begin in range(_LONGEST, len(line), size)]
    return b"\r\n ".join((line[:_LONGEST], *rest))


def has_broken_line(body: bytes) -> bool:
    """Whether Postfix or Sendmail has broken a line, as far as that shows."""
    return _BREAK.search(body) is not None
