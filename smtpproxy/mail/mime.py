"""Reads text in fields (encoded words of RFC 2047, charsets) and the parts of a message (RFC 2045,
2046), with bounded work.

No structure can make it recurse or decode without bound, or fail: anything beyond a limit or in an
unknown encoding is left out, and `Body.whole` says so.
"""

import binascii
import codecs
import re
from binascii import a2b_base64, a2b_qp
from collections.abc import Iterator
from encodings import normalize_encoding
from encodings.aliases import aliases
from string import ascii_letters, digits

from msgspec import Struct

from smtpproxy.mail.content_fields import (
    AS_IT_IS,
    ContentType,
    content_types,
    doubled_field,
    first_value,
    first_word,
    is_attached,
    unclear_field,
)
from smtpproxy.mail.headers import HeaderBlock

# charset, perhaps with a language (RFC 2231 5), encoding, text
_WORD = re.compile(r"=\?([^?*\s]+)(?:\*[^?\s]*)?\?([bBqQ])\?([^?]*)\?=")


def decode_words(text: str) -> str:
    """Return `text` with every encoded word decoded.

    White space between two encoded words is dropped (RFC 2047 6.2). A word that cannot be decoded
    stays as it is. `text` is an unfolded field value.
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
            pieces.append(decode_text(pending, charset))
            pending = b""
        if between.strip() or not charset:
            pieces.append(between)
        pending += content
        charset = word[1].lower()
        position = word.end()
    pieces += (decode_text(pending, charset), text[position:])
    return "".join(pieces)


def _content(encoding: str, encoded: str) -> bytes | None:
    try:
        octets = encoded.encode("ascii")
        if encoding in "qQ":
            return binascii.a2b_qp(octets, header=True)
        return binascii.a2b_base64(octets + b"=" * (-len(octets) % 4))
    except (UnicodeEncodeError, binascii.Error):
        return None


# The codecs for charsets of mail, by their modules' names: Python has others, some slow on hostile
# input (punycode). All modules take a megabyte, so each is loaded by the first text in it, except
# those of nearly all mail. Python itself would keep every name that it was ever asked for.
_CODECS = frozenset(
    {"ascii", "utf_8", "utf_16", "utf_16_le", "utf_16_be", "utf_7"}
    | {f"cp{number}" for number in (437, 850, 874, 932, 949, *range(1250, 1259))}
    | {f"iso8859_{number}" for number in range(2, 17) if number not in (9, 11, 12)}
    | {"koi8_r", "koi8_u", "mac_roman", "gbk", "gb18030", "big5"}
    | {"euc_jp", "iso2022_jp", "iso2022_kr"}
)
for _usual in ("iso8859_15", "cp1252"):
    codecs.lookup(_usual)
_WINDOWS = {
    "latin_1": "cp1252",
    "iso8859_9": "cp1254",
    "iso8859_11": "cp874",
    "tis_620": "cp874",
    "gb2312": "gbk",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
"""Programs on Windows give its charsets these names, and mail programs read them accordingly
(WHATWG Encoding 4.2): octets 80 to 9F of iso-8859-1 are quotes, dashes and the like."""
_ALIASES = {
    "utf8mb4": "utf-8",
    "unicode": "utf-8",
    "x-sjis": "shift_jis",
    "x-gbk": "gbk",
    "windows-874": "cp874",
}


def decode_text(octets: bytes, charset: str) -> str:
    """Return the text; octets that cannot be decoded become U+FFFD, never an error.

    Without a charset, or with one that no mail has, the octets are read as UTF-8 if they are valid,
    otherwise as windows-1252, as mail programs do.
    """
    name = _name(charset)
    if name is not None and name != "ascii":
        try:
            return octets.decode(name, "replace")
        except (UnicodeError, ValueError):  # a codec that cannot replace
            pass
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError as error:
        good = octets[: error.start]
        if error.reason == "unexpected end of data" and not good.isascii():
            return good.decode("utf-8")  # cut within a character
    return octets.decode("windows-1252", "replace")


def _name(charset: str) -> str | None:
    """Return the name of the codec for a charset of mail, or None."""
    asked = charset.strip().lower()
    normal = normalize_encoding(_ALIASES.get(asked, asked)).replace(".", "_")
    name = aliases.get(normal, normal)
    name = _WINDOWS.get(name, name)
    return name if name in _CODECS else None


def is_ascii_wise(charset: str) -> bool:
    """Whether every ASCII octet always means its ASCII character."""
    name = _name(charset) or ""
    return not name.startswith(("utf_16", "utf_7", "iso2022"))


class MimeLimits(Struct, frozen=True):
    """How much is read: nested multiparts, parts in total, octets of decoded text in total."""

    depth: int = 10
    parts: int = 200
    text: int = 512 * 1024


LIMITS = MimeLimits()


AMP = "text/x-amp-html"
"""What Gmail and others show instead of HTML, while the message is new."""


class EncodedText(Struct, frozen=True):
    """One displayed text and its position in the body: from `start` to `end`, in a transfer
    encoding. `octets` are decoded from that, up to the limit."""

    plain: bool
    octets: bytes
    charset: str
    encoding: str
    start: int
    end: int


class TextPart(Struct, frozen=True):
    """One text: its decoded source. HTML unless `plain`.

    `shown`: by most programs, which choose the last alternative, HTML if there is any, and of
    related parts the root.
    """

    plain: bool
    text: str
    shown: bool = True


class Body(Struct, frozen=True):
    """The texts in order. `whole`: nothing that may have been text was left out. `malformed`: why a
    reader may see other texts; `unclear`: why a reader may not see one at all."""

    parts: tuple[TextPart, ...]
    whole: bool
    malformed: str | None = None
    unclear: str | None = None


_LONGEST_BOUNDARY = 200  # RFC 2046 5.1.1 has 70
_LONGEST_HEADER = 65_536  # octets of one part's header section
_DELIMITER_END = re.compile(rb"(--)?[ \t]*(?:\r?\n|\Z)")
_BASE64 = f"{ascii_letters}{digits}+/=".encode()
_NOT_BASE64 = bytes(set(range(256)) - set(_BASE64))


def read_body(headers: HeaderBlock, body: bytes, limits: MimeLimits = LIMITS) -> Body:
    """Return the texts that a message may display: plain and HTML parts that are not attachments.

    `body` is what follows the empty line, dot-unstuffed; it may be only the beginning (the caller
    knows that the rest was not read). An enclosed message (message/rfc822) is somebody else's text
    and not read.
    """
    reader = _Reader(limits, _READ_BY_MOST)
    reader.read(headers, body, 0, 0)
    texts = [
        TextPart(one.plain, decode_text(one.octets, one.charset), place not in reader.unshown)
        for place, one in enumerate(reader.found)
    ]
    return Body(tuple(texts), reader.whole, reader.malformed, reader.unclear)


def read_texts(
    headers: HeaderBlock, body: bytes, limits: MimeLimits = LIMITS
) -> tuple[tuple[EncodedText, ...], bool, str | None]:
    """Return the same texts as `read_body` with their positions, whether these are all, and why a
    reader may see others, or none.

    AMP, which only some programs show, is included.
    """
    reader = _Reader(limits, (*_READ_BY_MOST, AMP))
    reader.read(headers, body, 0, 0)
    return tuple(reader.found), reader.whole, reader.malformed or reader.unclear


_READ_BY_MOST = ("text/plain", "text/html")


class _Reader:
    def __init__(self, limits: MimeLimits, types: tuple[str, ...]) -> None:
        self._types = types
        self._like_text = ("multipart/", *types)
        self.found: list[EncodedText] = []
        self.unshown: set[int] = set()  # places in `found`
        self.whole = True
        self.malformed: str | None = None
        self.unclear: str | None = None
        self._parts = limits.parts
        self._room = limits.text
        self._depth = limits.depth

    def read(
        self, headers: HeaderBlock, body: bytes, at: int, depth: int, default: str = ""
    ) -> None:
        """Read a part, whose body begins at `at` in the message's. `default` is its type unless it
        states one."""
        self._parts -= 1
        if self._parts < 0:
            self.whole = False
            return
        kinds = content_types(headers, default)
        kind = kinds[0]
        many = kind.type.startswith("multipart/")
        if not many and is_attached(headers):
            return
        # "text/html" and text/html charset=utf-8 are texts to some
        if any(one.type.lstrip('"').startswith(self._like_text) for one in kinds):
            self._check(headers, kind)
        if many:
            self._read_parts(body, kind, at, depth)
        elif kind.type in self._types:
            self._read_text(headers, body, at, kind)

    def _check(self, headers: HeaderBlock, kind: ContentType) -> None:
        """Note what programs interpret differently."""
        if headers.repeats and (name := doubled_field(headers)) is not None:
            self.malformed = self.malformed or f"a part has two different {name} fields"
        if kind.doubled is not None:
            self.malformed = self.malformed or f"a Content-Type has two values of {kind.doubled}"
        if (name := unclear_field(headers)) is not None:
            self.unclear = self.unclear or f"some programs cannot read the {name} of a part"

    def _read_parts(self, body: bytes, kind: ContentType, at: int, depth: int) -> None:
        boundary = kind.parameters.get("boundary", "")
        if not boundary or len(boundary) > _LONGEST_BOUNDARY or depth >= self._depth:
            self.whole = False
            return
        default = "message/rfc822" if kind.type == "multipart/digest" else ""  # RFC 2046 5.1.5
        groups: list[range] = []
        root: range | None = None
        start_id = _content_id(kind.parameters.get("start", ""))
        for start, end in part_places(body, boundary):
            if self._parts <= 0:
                self.whole = False
                break
            before = len(self.found)
            content_id = self._read_part(
                body[start:end], at + start, depth + 1, default, closed=end < len(body)
            )
            groups.append(range(before, len(self.found)))
            if root is None and start_id and content_id == start_id:
                root = groups[-1]
        shown = self._shown(kind, [group for group in groups if group], root)
        self.unshown.update(n for group in groups if group not in shown for n in group)

    def _shown(self, kind: ContentType, groups: list[range], root: range | None) -> list[range]:
        """Return the parts with text that most programs show, as places in `found`.

        The root of related parts is the one that `start` names (RFC 2387 3.2), else the first.
        """
        if kind.type == "multipart/related":
            return groups[:1] if root is None else [root]
        if kind.type != "multipart/alternative":
            return groups
        rich = [
            group
            for group in groups
            if any(not self.found[n].plain and n not in self.unshown for n in group)
        ]
        return (rich or groups)[-1:]

    def _read_part(self, raw: bytes, at: int, depth: int, default: str, *, closed: bool) -> str:
        """Read a part, which begins with the line end of its delimiter; return its Content-ID.

        `closed`: another delimiter follows, so that it was not cut off.
        """
        end = raw.find(b"\r\n\r\n", 0, _LONGEST_HEADER)
        headers = HeaderBlock(raw[2 : _LONGEST_HEADER if end < 0 else end + 4])
        if headers.spaced_colon is not None:
            self.unclear = self.unclear or "a part has a space before the colon of a field"
        if headers.defect is not None and (end >= 0 or closed):
            self.unclear = self.unclear or "a part has a line in its header that is not a field"
        if end < 0:
            self.whole = self.whole and len(raw) <= 2
            return ""
        self.read(headers, raw[end + 4 :], at + end + 4, depth, default)
        return _content_id(first_value(headers, "Content-ID"))

    def _read_text(self, headers: HeaderBlock, body: bytes, at: int, kind: ContentType) -> None:
        encoding = first_word(first_value(headers, "Content-Transfer-Encoding"))
        octets = plain_octets(body, encoding, self._room)
        if octets is None:  # programs show such a part as it is, despite RFC 2045 6.4
            octets, self.whole = body[: self._room + 1], False
        if len(octets) > self._room:
            octets, self.whole = octets[: self._room], False
        self._room -= len(octets)
        charset = kind.parameters.get("charset", "")
        plain = kind.type == "text/plain"
        text = EncodedText(plain, octets, charset, encoding, at, at + len(body))
        self.found.append(text)


def _content_id(value: str) -> str:
    """The identifier, however it is bracketed."""
    return value.strip(" \t<>")


def split_parts(body: bytes, boundary: str) -> Iterator[bytes]:
    """Yield the parts of a multipart, each from the line end of its delimiter (RFC 2046 5.1.1).

    `body` has CRLF line ends. The last part may lack its closing delimiter.
    """
    return (body[start:end] for start, end in part_places(body, boundary))


def part_places(body: bytes, boundary: str) -> Iterator[tuple[int, int]]:
    """Yield where each part of a multipart begins and ends."""
    delimiter = b"\r\n--" + boundary.encode("utf-8", "surrogateescape")
    begin: int | None = None
    position, last = 0, False
    if body.startswith(delimiter[2:]):
        end = _DELIMITER_END.match(body, len(delimiter) - 2)
        if end is not None:
            begin = position = max(end.end() - 2, 0)  # its line end may begin the next
            last = end[1] is not None
    while not last:
        found = body.find(delimiter, position)
        if found < 0:
            break
        end = _DELIMITER_END.match(body, found + len(delimiter))
        if end is None:
            position = found + 2
            continue
        if begin is not None:
            yield begin, found
        last = end[1] is not None
        begin = position = max(end.end() - 2, found + len(delimiter))
    if begin is not None and not last:
        yield begin, len(body)  # the last is not closed, or was cut off


def plain_octets(body: bytes, encoding: str, room: int) -> bytes | None:
    """Decode at least `room + 1` octets, if there are as many; None for an unknown encoding."""
    if encoding in AS_IT_IS:
        return body[: room + 1]
    if encoding == "quoted-printable":
        return a2b_qp(body[: 4 * room + 4])
    if encoding != "base64":
        return None
    data = body[: 2 * room + 8].translate(None, _NOT_BASE64).partition(b"=")[0]
    if len(data) % 4 == 1:
        data = data[:-1]
    return a2b_base64(data + b"=" * (-len(data) % 4))
