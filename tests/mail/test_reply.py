"""SMTP replies as they are sent."""

import pytest

from smtpproxy.mail.reply import Reply


@pytest.mark.parametrize(
    ("reply", "sent", "shown"),
    [
        (Reply.of(250, "2.0.0", "OK"), b"250 2.0.0 OK\r\n", "250 2.0.0 OK"),
        (Reply.of(354, None, "go on"), b"354 go on\r\n", "354 go on"),
        (Reply.of(250, None), b"250 \r\n", "250 "),
        (
            Reply.of(550, "5.7.1", "no", "really", "no"),
            b"550-5.7.1 no\r\n550-5.7.1 really\r\n550 5.7.1 no\r\n",
            "550-5.7.1 no / 550-5.7.1 really / 550 5.7.1 no",
        ),
        (Reply.of(250, None, "a", "b"), b"250-a\r\n250 b\r\n", "250-a / 250 b"),
        (Reply.of(250, None, "b\xfccher"), "250 bücher\r\n".encode(), "250 bücher"),
        (Reply.of(250, None, "b\udcfccher"), b"250 b\xfccher\r\n", "250 b\ufffdcher"),
        (Reply.of(550, "5.7.1", "a\r\nb\nc"), b"550 5.7.1 a  b c\r\n", "550 5.7.1 a  b c"),
    ],
)
def test_every_line_has_the_code_and_the_enhanced_code(
    reply: Reply, sent: bytes, shown: str
) -> None:
    assert reply.encode() == sent
    assert str(reply) == shown


def test_the_text_joins_all_lines() -> None:
    assert Reply.of(550, "5.7.1", "no", "really").text == "no really"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("x" * 499, ("x" * 499,)),
        ("x" * 500, ("x" * 499, "x")),
        ("x" * 499 + " y", ("x" * 499, "y")),
        (" ".join(["word"] * 200), (" ".join(["word"] * 100),) * 2),
    ],
)
def test_a_line_has_at_most_511_octets_and_is_split_at_a_space(
    text: str, lines: tuple[str, ...]
) -> None:
    reply = Reply.of(550, "5.7.1", text)
    assert reply.lines == lines
    assert max(map(len, reply.encode().splitlines(keepends=True))) <= 511
