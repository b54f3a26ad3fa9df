"""The fields that say how the text of a part is read (RFC 2045): its type, charset and encoding."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from urllib.parse import unquote

from msgspec import Struct

from smtpproxy.mail.headers import CommentError, HeaderBlock, has_long_line, skip_cfws

_LONGEST_VALUE = 4_096  # octets of a Content-… field
_SHORT = 900  # octets: no line of a field of these is long
_MOST_PIECES = 100  # of one parameter
# None of these can fail after its first octet, so no octet is read twice.
_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"?|([^\s;"]*))', re.DOTALL)
_ONE_VALUE: Mapping[str, Callable[[str], str]] = {
    "boundary": str,
    "charset": lambda name: name.lower().replace("-", "").replace("_", ""),  # UTF8 is utf-8
    "start": str,
}
"""The parameters by which a text is found and read, each with the form in which values compare."""
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


class ContentType(Struct, frozen=True):
    """A media type in lower case, and its parameters by lower-case names.

    `doubled` is a parameter that has two different values; the first is the one here.
    """

    type: str
    parameters: dict[str, str]
    doubled: str | None = None


def content_type(value: str) -> ContentType:
    """Read a Content-Type; without a readable type it is text/plain (RFC 2045 5.2)."""
    kind = first_word(value)
    if "/" not in kind:
        return ContentType("text/plain", {})
    given = [
        (name.lower(), _QUOTED_PAIR.sub(r"\1", quoted) or bare)
        for name, quoted, bare in _PARAMETER.findall(value)
    ]
    pieces = dict(reversed(given))  # of two values, the first counts
    given += [(name, text) for name in _ONE_VALUE if (text := _in_pieces(pieces, name))]
    doubled = next(
        (name for name, folded in _ONE_VALUE.items() if _differ(given, name, folded)), None
    )
    return ContentType(kind, dict(reversed(given)), doubled)


def _differ(given: Iterable[tuple[str, str]], name: str, folded: Callable[[str], str]) -> bool:
    return len({folded(text) for one, text in given if one == name}) > 1


def _in_pieces(parameters: Mapping[str, str], name: str) -> str:
    """Return a value that is encoded, or divided into numbered pieces (RFC 2231 3 and 4)."""
    if (text := parameters.get(f"{name}*")) is not None:
        return _unquoted(text)
    pieces: list[str] = []
    for number in range(_MOST_PIECES):
        piece = parameters.get(f"{name}*{number}")
        if piece is None and (coded := parameters.get(f"{name}*{number}*")) is not None:
            piece = unquote(coded) if number else _unquoted(coded)
        if piece is None:
            break
        pieces.append(piece)
    return "".join(pieces)


def _unquoted(text: str) -> str:
    """The text without percent-encoding and without its charset and language, which come first."""
    return unquote(text.rpartition("'")[2])


def content_types(headers: HeaderBlock, default: str) -> list[ContentType]:
    """Read every Content-Type, or the default if there is none."""
    values = list(_values(headers, "Content-Type")) or [""]
    return [content_type(value or default) for value in values]


def doubled_field(headers: HeaderBlock) -> str | None:
    """Return the name of a field that says in two ways how a text is read; None: there is none.

    There may be one of each (RFC 2045 3). Of two, some programs read the first, others the last.
    """
    for name, read in _ONE_OF_EACH.items():
        if headers.count(name) > 1 and len(set(map(read, _values(headers, name)))) > 1:
            return name
    return None


def _reading(value: str) -> tuple[str, ...]:
    """All of a Content-Type by which a text is found and read."""
    kind = content_type(value)
    given = kind.parameters
    return kind.type, *(folded(given.get(name, "")) for name, folded in _ONE_VALUE.items())


def unclear_field(headers: HeaderBlock) -> str | None:
    """Return the name of a field that not all programs understand; None: there is none.

    It has spaces, quotes or a comment before its parameters, base64 or quoted-printable with
    parameters, a type without a subtype, a boundary in pieces, or a line that MTAs cut.
    """
    for name, clear in _CLEAR.items():
        for raw, value in zip(headers.raw_values(name), _values(headers, name), strict=True):
            if clear.fullmatch(value) is None or (len(value) > _SHORT and has_long_line(name, raw)):
                return name
    return None


def is_attached(headers: HeaderBlock) -> bool:
    """Whether every program takes the part for a file, not for a text to be shown."""
    values = list(_values(headers, "Content-Disposition"))
    return bool(values) and all(map(_ATTACHED.fullmatch, values))


def first_word(value: str) -> str:
    """The value without parameters, comments and spaces (RFC 2045 5.1), in lower case."""
    if "(" in value:
        with suppress(CommentError):
            value = value[skip_cfws(value, 0) :].partition("(")[0]
    return "".join(value.partition(";")[0].split()).lower()


AS_IT_IS = frozenset({"", "7bit", "8bit", "binary"})
"""The encodings that encode nothing (RFC 2045 6.2)."""
_TOKEN = r"[!#-'*+.0-9A-Z^-~-]+"  # RFC 2045 5.1; no space is one, so no octet is tried twice
_CLEAR = {
    "Content-Type": re.compile(
        rf"{_TOKEN}/{_TOKEN}[ \t]*(?:(?=;)(?!.*[;)]\s*(?i:boundary)\*).*)?", re.DOTALL
    ),
    "Content-Transfer-Encoding": re.compile(  # after 8bit, whatever follows decodes nothing
        rf"(?:{_TOKEN})?|(?i:7bit|8bit|binary)[ \t]*[;,(].*", re.DOTALL
    ),
    "Content-Disposition": re.compile(rf"(?:{_TOKEN}[ \t]*(?:;.*)?)?", re.DOTALL),
}
_ATTACHED = re.compile(r"(?i:attachment)[ \t]*(?:;.*)?", re.DOTALL)
_ONE_OF_EACH: dict[str, Callable[[str], object]] = {
    "Content-Type": _reading,
    "Content-Transfer-Encoding": lambda value: first_word(value) in AS_IT_IS or first_word(value),
    "Content-Disposition": first_word,
}


def first_value(headers: HeaderBlock, name: str) -> str:
    return next(_values(headers, name), "")


def _values(headers: HeaderBlock, name: str) -> Iterator[str]:
    for value in headers.values(name):
        yield value[:_LONGEST_VALUE].decode("utf-8", "surrogateescape")
