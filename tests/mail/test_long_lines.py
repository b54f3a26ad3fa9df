"""Breaking long lines as Postfix does."""

import pytest

from smtpproxy.mail.long_lines import with_broken_lines

LINE = bytes(97 + number % 26 for number in range(5_000))


@pytest.mark.parametrize(
    ("line", "lengths"),
    [
        (LINE[:998], [998]),
        (LINE[:999], [998, 2]),
        (LINE[:1_995], [998, 998]),
        (LINE[:1_996], [998, 998, 2]),
        (LINE, [998, 998, 998, 998, 998, 15]),
    ],
)
def test_lines_of_more_than_998_octets_are_broken(line: bytes, lengths: list[int]) -> None:
    for before in (b"", b"\r\n", b"x" * 998 + b"\r\n", b"x\r\n" * 400):
        for after in (b"", b"\r\n", b"\r\nx" * 400):
            broken = with_broken_lines(before + line + after)
            if len(lengths) == 1:
                assert broken is None
                continue
            assert broken is not None
            pieces = broken.removeprefix(before).removesuffix(after).split(b"\r\n")
            assert [len(piece) for piece in pieces] == lengths
            assert b"\r\n ".join(piece.removeprefix(b" ") for piece in pieces) == b"\r\n".join(
                pieces
            )
            assert b"".join(piece.removeprefix(b" ") for piece in pieces) == line


def test_a_body_of_short_lines_is_unchanged() -> None:
    for body in (b"", b"\r\n" * 5_000, (b"x" * 998 + b"\r\n") * 9, b"x" * 998):
        assert with_broken_lines(body) is None
