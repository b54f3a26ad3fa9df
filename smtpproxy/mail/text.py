"""Text in fields and parts: comments (RFC 5322), encoded words (RFC 2047), charsets."""

import binascii
import codecs
import re

_SPACE = re.compile(r"[ \t\r\n]*")
_BOUNDARY = re.compile(r"[()\\]")


class CommentError(ValueError):
    """A comment that is opened and not closed."""


def skip_cfws(text: str, position: int) -> int:
    """Return the offset behind all comments and white space that stand at `position`.

    Comments may nest and hold quoted pairs. Raises `CommentError`.
    """
    while True:
        position = _SPACE.match(text, position).end()  # type: ignore[union-attr]
        if not text.startswith("(", position):
            return position
        position = _comment_end(text, position)


def _comment_end(text: str, position: int) -> int:
    depth = 0
    while (found := _BOUNDARY.search(text, position)) is not None:
        position = found.end()
        match found[0]:
            case "(":
                depth += 1
            case ")":
                depth -= 1
                if depth == 0:
                    return position
            case _:
                position += 1
    raise CommentError("a comment is opened with ( and not closed with )")


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


def decode_words(text: str) -> str:
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
            pieces.append(_word_text(pending, charset))
            pending = b""
        if between.strip() or not charset:
            pieces.append(between)
        pending += content
        charset = word[1].lower()
        position = word.end()
    pieces += (_word_text(pending, charset), text[position:])
    return "".join(pieces)


def _content(encoding: str, encoded: str) -> bytes | None:
    try:
        octets = encoded.encode("ascii")
        if encoding in "qQ":
            return binascii.a2b_qp(octets, header=True)
        return binascii.a2b_base64(octets + b"=" * (-len(octets) % 4))
    except (UnicodeEncodeError, binascii.Error):
        return None


def _word_text(octets: bytes, charset: str) -> str:
    return octets.decode(charset if charset in _CHARSETS else "latin-1", "replace")


_WINDOWS = tuple(f"cp{number}" for number in (437, 850, 874, *range(1250, 1259)))
_ISO = tuple(f"iso-8859-{number}" for number in range(1, 17) if number != 12)
_KNOWN = (
    *("us-ascii", "utf-8", "utf-16", "utf-16le", "utf-16be", "utf-7", *_WINDOWS, *_ISO),
    *("koi8-r", "koi8-u", "macintosh", "gb2312", "gbk", "gb18030", "big5"),
    *("shift_jis", "euc-jp", "iso-2022-jp", "euc-kr", "iso-2022-kr", "tis-620"),
)
# Python has codecs that are no charset of mail, and slow on hostile input (punycode).
_NAMES = frozenset(codecs.lookup(name).name for name in _KNOWN)
_ALIASES = {
    "utf8mb4": "utf-8",
    "unicode": "utf-8",
    "x-sjis": "shift_jis",
    "x-gbk": "gbk",
    "windows-874": "cp874",
}


def decode_text(octets: bytes, charset: str) -> str:
    """Return the text; what cannot be decoded is U+FFFD, never an error.

    A part that names no charset, or one that no mail has, is read as UTF-8 if it is that, else
    as windows-1252, as mail programs do.
    """
    name = _name(charset)
    if name is not None and name != "ascii":
        try:
            return octets.decode(name, "replace")
        except (UnicodeError, ValueError):  # a codec that minds what it is to replace
            pass
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError as error:
        good = octets[: error.start]
        if error.reason == "unexpected end of data" and not good.isascii():
            return good.decode("utf-8")  # cut inside of a character
    return octets.decode("windows-1252", "replace")


def _name(charset: str) -> str | None:
    asked = charset.strip().lower()
    try:
        name = codecs.lookup(_ALIASES.get(asked, asked)).name
    except (LookupError, ValueError):
        return None
    return name if name in _NAMES else None
