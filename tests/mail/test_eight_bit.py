"""Whether content needs 8BITMIME or SMTPUTF8."""

import pytest

from smtpproxy.mail.eight_bit import EIGHT_BIT, UTF8, needed_extensions

NOTHING: frozenset[str] = frozenset()
BODY = frozenset({EIGHT_BIT})
FIELDS = frozenset({EIGHT_BIT, UTF8})


@pytest.mark.parametrize(
    ("content", "needs"),
    [
        ("Subject: x\r\n\r\nbody\r\n", NOTHING),
        ("", NOTHING),
        ("Subject: x\r\n\r\ncaf\u00e9\r\n", BODY),
        ("Subject: caf\u00e9\r\n\r\nbody\r\n", FIELDS),
        ("Subject: x\r\n caf\u00e9\r\n", FIELDS),
        ("Subject: x\r\n \t\r\n caf\u00e9\r\n\r\nbody\r\n", FIELDS),
        (
            "Content-Type: multipart/mixed;\r\n\tboundary=b\r\n\r\n--b\r\n"
            "Content-Type: text/plain\r\n\r\n--\r\ncaf\u00e9\r\n--c\r\n\u00e9\r\n--b--\r\n\u00e9",
            BODY,
        ),
        (
            'Content-Type: multipart/mixed; boundary="b c"\r\n\r\n\u00e9\r\n--b c \r\n'
            "Content-Description: caf\u00e9\r\n\r\nbody\r\n--b c--\r\n",
            FIELDS,
        ),
        (
            "Content-Type: multipart/mixed; boundary=a; x=y\r\n\r\n--a\r\n"
            "Content-Type: multipart/alternative; boundary=i\r\n\r\n--i\r\nX: \u00e9\r\n\r\n",
            FIELDS,
        ),
        ("Content-Type: message/rfc822\r\n\r\nSubject: caf\u00e9\r\n\r\nbody\r\n", FIELDS),
        (
            "Content-Type: message/rfc822\r\nX: y\r\n\r\nSubject: caf\u00e9\r\n\r\nbody\r\n",
            FIELDS,
        ),
        ("Content-Type: message/global\r\n\r\nSubject: caf\u00e9\r\n\r\nbody\r\n", FIELDS),
        (f"Subject: caf\u00e9{'x' * 99_999}\r\n\r\nbody\r\n", FIELDS),
        ("Content-Type:\r\n message/global\r\n\r\nSubject: x\r\n\r\ncaf\u00e9\r\n", BODY),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_which_extensions_content_needs(content: str, needs: frozenset[str], size: int) -> None:
    octets = content.encode()
    pieces = [octets[i : i + size] for i in range(0, len(octets), size)]
    assert needed_extensions(lambda: pieces) == needs
