"""Encoded words (RFC 2047): non-ASCII text in header fields."""

import binascii
import re

# charset, perhaps with a language (RFC 2231 5), encoding, text
_WORD = re.compile(r"=\?([^?*\s]+)(?:\*[^?\s]*)?\?([bBqQ])\?([^?]*)\?=")

# A closed list: a name from the wire must not choose among all of Python's codecs, some
# of which are slow or no character sets. What is not listed is read as Latin-1, which
# is right for the ASCII part of nearly every other one.
_CHARSETS = frozenset(
    {"utf-8", "us-ascii", "koi8-r", "koi8-u", "gb2312", "gbk", "gb18030", "big5"}
    | {"shift_jis", "euc-jp", "euc-kr", "iso-2022-jp"}
    | {f"iso-8859-{part}" for part in range(1, 17) if part != 12}
    | {f"windows-{page}" for page in range(1250, 1259)}
)


def decode(text: str) -> str:
    """Return `text` with every encoded word replaced by what it stands for.

    White space between two encoded words belongs to neither and goes (RFC 2047 6.2). A
    word that cannot be decoded stays as it is. `text` is an unfolded field value.
    """
    if "=?" not in text:
        return text
    pieces: list[str] = []
    pending, charset = b"", ""  # one character may be split between two words
    position = 0
    for word in _WORD.finditer(text):
        content = _content(word[2], word[3])
        if content is None:
            continue
        between = text[position : word.start()]
        if between.strip() or not charset or word[1].lower() != charset:
            pieces.append(_text(pending, charset))
            pending = b""
        if between.strip() or not charset:
            pieces.append(between)
        pending += content
        charset = word[1].lower()
        position = word.end()
    pieces += (_text(pending, charset), text[position:])
    return "".join(pieces)


def _content(encoding: str, encoded: str) -> bytes | None:
    try:
        octets = encoded.encode("ascii")
        if encoding in "qQ":
            return binascii.a2b_qp(octets, header=True)
        return binascii.a2b_base64(octets + b"=" * (-len(octets) % 4))
    except (UnicodeEncodeError, binascii.Error):
        return None


def _text(octets: bytes, charset: str) -> str:
    return octets.decode(charset if charset in _CHARSETS else "latin-1", "replace")
