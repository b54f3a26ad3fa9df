"""Splitting a report into its parts, however it was assembled."""

import pytest

from smtpproxy.feedback.parts import read_mail

MIXED = b"Content-Type: multipart/mixed; boundary=b\n"


@pytest.mark.parametrize(
    ("mail", "parts"),
    [
        (MIXED + b"\n--b\n\na\n\nb\n--b--\n", [("text/plain", b"a\r\n\r\nb")]),
        (MIXED + b"\n--b\nContent-Type: text/html\n\na\n--b--\n", [("text/html", b"a")]),
        (MIXED + b"\nno part\n", [("text/plain", b"no part\r\n")]),
        (b"Content-Transfer-Encoding: x-odd\n\na=3D\n", [("text/plain", b"a=3D\r\n")]),
        (b"Content-Transfer-Encoding: base64\n\nYQ==\n", [("text/plain", b"a")]),
        (MIXED + b"\n" + b"--b\n\na\n" * 60, [("text/plain", b"a")] * 50),
    ],
)
def test_the_parts_of_a_mail(mail: bytes, parts: list[tuple[str, bytes]]) -> None:
    assert [(part.type, part.octets) for part in read_mail(mail).parts] == parts
