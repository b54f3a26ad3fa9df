"""Cutting pieces out of a message leaves the rest unchanged, octet for octet."""

import re
from base64 import b64decode, encodebytes
from email import message_from_bytes, policy
from quopri import encodestring
from random import Random

import pytest

from smtpproxy.mail.cutting import COMMENT, NO_PICTURE, CannotCut, Piece, cut
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.mime import EncodedText, read_texts

TAG = b'<img src="https://t.example/o?id=1234567890" width="1" height="1">'
assert len(TAG) % 3 == 0  # so that in base64 adjacent ones are one piece
HEAD = b"Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: %b\r\n\r\n"


def encoded(octets: bytes, encoding: bytes) -> bytes:
    if encoding == b"base64":
        return encodebytes(octets).replace(b"\n", b"\r\n")
    if encoding == b"quoted-printable":
        text = encodestring(octets.replace(b"\r\n", b"\n")).replace(b"\n", b"\r\n")
        return text + b"\r\n"
    return octets + b"\r\n"


def read(head: bytes, body: bytes) -> EncodedText:
    (text,), whole, _ = read_texts(HeaderBlock(head), body)
    assert whole
    return text


def pieces_of(octets: bytes) -> list[Piece]:
    return [(*found.span(), COMMENT) for found in re.finditer(re.escape(TAG), octets)]


@pytest.mark.parametrize("encoding", [b"8bit", b"quoted-printable", b"base64"])
def test_only_the_pieces_are_removed(encoding: bytes) -> None:
    """Anywhere in the text, even side by side."""
    random = Random(27)
    head = HEAD % encoding
    for _ in range(400):
        words = [
            b"a",
            "h\u00e9 =".encode(),
            b"b" * 70,
            b"\r\n",
            b"--b",
            b"x" * 300,
            b".",
            TAG,
            TAG * 12,
        ]
        octets = b"".join(random.choice(words) for _ in range(random.randint(1, 12)))
        body = encoded(octets, encoding)
        text = read(head, body)
        pieces = pieces_of(text.octets)
        if not pieces:
            continue
        edited = cut(body, text, pieces)
        left = read(head, edited).octets
        assert re.sub(rb"<!-- {0,2}-->", TAG, left) == text.octets
        assert edited.count(b"\n") == edited.count(b"\r\n")
        assert all(len(line) <= 76 for line in edited.split(b"\r\n")) or encoding == b"8bit"
        assert _decoded(head + edited) == left  # as another parser reads it
        if encoding == b"base64":
            assert b64decode(edited.replace(b"\r\n", b""), validate=True) == left


@pytest.mark.parametrize("encoding", [b"8bit", b"quoted-printable", b"base64"])
def test_an_address_is_removed_from_within_its_tag(encoding: bytes) -> None:
    random = Random(28)
    url, head = b"https://t.example/open?u=123456789", HEAD % encoding
    tags = [b'<td background="%b">' % url, b"<p style='background:url(%b)'>" % url]
    for _ in range(200):
        words = [b"a", b"b" * 70, b"\r\n", b"h\xc3\xa9 =", *tags, *tags, TAG]
        octets = b"".join(random.choice(words) for _ in range(random.randint(1, 9)))
        body = encoded(octets, encoding)
        text = read(head, body)
        pieces = pieces_of(text.octets)
        found = re.finditer(re.escape(url), text.octets)
        pieces = sorted([*pieces, *((*each.span(), NO_PICTURE) for each in found)])
        if not pieces:
            continue
        left = read(head, cut(body, text, pieces)).octets
        assert re.sub(rb"<!-- {0,2}-->", TAG, re.sub(rb"data:, {0,2}", url, left)) == text.octets


def _decoded(message: bytes) -> bytes:
    found = message_from_bytes(message, policy=policy.SMTP).get_payload(decode=True)
    assert isinstance(found, bytes)
    return found


def test_lines_outside_the_piece_are_unchanged() -> None:
    lines = [b"=41 odd but right=20=\r\n", b"kept =3D\r\n", TAG.replace(b"=", b"=3D"), b"\r\nlast"]
    body = b"".join(lines)
    text = read(HEAD % b"quoted-printable", body)
    edited = cut(body, text, pieces_of(text.octets))
    assert edited == b"".join([*lines[:2], b"<!---->", *lines[3:]])
    raw = encodebytes(b"k" * 200 + TAG + b"z" * 200).replace(b"\n", b"\r\n")
    text = read(HEAD % b"base64", raw)
    edited = cut(raw, text, pieces_of(text.octets))
    assert set(raw.split(b"\r\n")[:3]) <= set(edited.split(b"\r\n"))
    assert set(raw.split(b"\r\n")[-4:]) <= set(edited.split(b"\r\n"))


@pytest.mark.parametrize("octets", [TAG, b"x" + TAG, b"xy" + TAG])
def test_base64_may_lack_its_padding(octets: bytes) -> None:
    raw = encoded(octets, b"base64").replace(b"=", b"").replace(b"\r\n", b"")
    text = read(HEAD % b"base64", raw)
    edited = cut(raw, text, pieces_of(text.octets))
    left = read(HEAD % b"base64", edited).octets
    assert re.sub(rb"<!-- {0,2}-->", TAG, left) == octets


def test_every_character_of_a_piece_may_be_escaped() -> None:
    raw = b"a" + b"".join(b"=%02x" % octet for octet in TAG[:20]) + b"z"
    text = read(HEAD % b"quoted-printable", raw)
    assert cut(raw, text, [(1, 21, COMMENT)]) == b"a<!---->z"


def test_octets_after_the_text_stay() -> None:
    body = b"--b\r\nContent-Type: text/html\r\n\r\n" + TAG + b"\r\n--b\r\n\r\ntwo\r\n--b--\r\n"
    head = HeaderBlock(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n")
    (text, _), *_ = read_texts(head, body)
    assert cut(body, text, pieces_of(text.octets)) == body.replace(TAG, b"<!---->")


def test_no_boundary_is_created() -> None:
    """The text after the piece must not become one at the start of a line."""
    body = b"x\r\n" + TAG + b"--edge\r\nContent-Type: text/plain\r\n\r\ny"
    text = read(HEAD % b"7bit", body)
    assert b"\r\n--edge" not in cut(body, text, pieces_of(text.octets))


@pytest.mark.parametrize(
    "raw",
    [
        TAG.replace(b"=", b"=3D").replace(b" ", b" =\r"),
        b"==" + TAG.replace(b"=", b"=3D"),
    ],
)
def test_ambiguous_messages_are_left_alone(raw: bytes) -> None:
    text = read(HEAD % b"quoted-printable", raw)
    start = text.octets.index(b"<")
    try:
        edited = cut(raw, text, [(start, len(text.octets), COMMENT)])
    except CannotCut:
        return
    assert read(HEAD % b"quoted-printable", edited).octets == text.octets[:start] + b"<!---->"
