"""Reading the lines of a file of any size and encoding, with bounded memory."""

import json
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, BinaryIO, Generic, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.store.exchange.encodings import BOM, Decoder, as_it_came

T = TypeVar("T")

MAX_LINE = 1024 * 1024
ILLEGIBLE = "\ufffd"
"""Replaces octets that are not a character."""
_REPLACEMENT = ILLEGIBLE.encode()
_CHUNK = 256 * 1024
_COMMENT = re.compile(rb"# line \d+: ")
_HASH = ord("#")
_NOT_TEXT = {
    b"\xd0\xcf\x11\xe0": "it is an old or encrypted spreadsheet; save it as XLSX or CSV in UTF-8",
    b"PK\x03\x04": "it is a spreadsheet or an archive; save it as CSV in UTF-8",
    b"\x1f\x8b": "it is compressed; unpack it first (gunzip)",
}


class ImportFault(Exception):
    """The file as a whole cannot be imported; the text says why, and how to fix it."""


class UndatedConsent(ValueError):
    """A row has a consent without its date."""


class Line(Struct, frozen=True):
    number: int
    content: bytes  # without its end
    is_guessed: bool = False  # not UTF-8, and its encoding is a guess
    is_open: bool = False  # the file ends before it does

    @property
    def original(self) -> bytes:
        return as_it_came(self.content) if self.is_guessed else self.content

    @property
    def is_void(self) -> bool:
        """Whether it is blank, or a comment of a FILE.rejected."""
        text = self.content
        return not text or text.isspace() or (text[0] == _HASH and bool(_COMMENT.match(text)))


class Rejected(Struct, frozen=True):
    """A rejected line. `original` is read once, before the next line."""

    number: int
    reason: str
    original: Iterable[bytes]
    is_undated: bool = False  # a consent without its date
    legible: "Line | None" = None  # what can be read of it, with U+FFFD for the rest
    refusal: Any = None  # its refusal, which counts all the same; a value like that of `Read`


class Passed(Struct, frozen=True):
    """A line with nothing to import, such as a subscriber among unsubscribes."""

    number: int


class Read(Struct, Generic[T], frozen=True):
    """A line that was read."""

    number: int
    value: T
    content: bytes


class Contents(Struct, Generic[T], frozen=True):
    """An opened file."""

    items: Iterator[Read[T] | Rejected | Passed]
    header: bytes | None = None  # the first line of a CSV file
    notices: tuple[str, ...] = ()  # for the user
    decoder: Decoder | None = None
    worded: Callable[[str], str] = str  # puts the file's column names into a fault


class Lines(Iterator[Line | Rejected]):
    """The lines of a file, which can be given back, and their decoder."""

    def __init__(
        self,
        lines: Iterable[Line | Rejected],
        decoder: Decoder | None = None,
        notices: tuple[str, ...] = (),
    ) -> None:
        self.decoder = decoder or Decoder("utf-8")
        self.notices = notices
        self._lines = iter(lines)
        self._given_back: deque[Line | Rejected] = deque()

    def __next__(self) -> Line | Rejected:
        return self._given_back.popleft() if self._given_back else next(self._lines)

    def give_back(self, lines: Sequence[Line | Rejected]) -> None:
        self._given_back.extendleft(reversed(lines))


def read_lines(file: BinaryIO, encoding: str | None = None) -> Lines:
    """Read lines as UTF-8; a line longer than MAX_LINE, or with NUL, is rejected.

    Lines end with LF or CRLF; a byte order mark at the start of a line is dropped. Without
    an `encoding`, lines that are not UTF-8 are read as CP1252, unless earlier lines have shown
    that the file is UTF-8. Raises ImportFault, with the first line, if the file is not text.
    """
    decoder = Decoder(encoding)
    return Lines(_read_lines(file, decoder), decoder)


def _read_lines(file: BinaryIO, decoder: Decoder) -> Iterator[Line | Rejected]:
    start = file.readline(MAX_LINE)
    _check_is_text(start)
    opened = decoder.opened(file, start)
    content = start if opened is file else opened.readline(MAX_LINE)
    number = 0
    while content:
        number += 1
        if len(content) == MAX_LINE and not content.endswith(b"\n"):
            rest = _rest_of_line(opened)
            yield Rejected(
                number, f"longer than {MAX_LINE} octets: split it up", chain([content], rest)
            )
            for _ in rest:
                pass
        else:
            line = _line(number, content.removeprefix(BOM).rstrip(b"\r\n"), decoder)
            if isinstance(line, Line) and not content.endswith(b"\n"):
                line = replace(line, is_open=True)
            yield line
        content = opened.readline(MAX_LINE)


def _line(number: int, content: bytes, decoder: Decoder) -> Line | Rejected:
    guessed = decoder.guessed
    try:
        text = decoder.utf8(content)
    except ValueError as error:
        return _illegible(number, str(error), content, decoder)
    if b"\0" in text:
        return _illegible(number, "it contains a NUL octet, which no text does", text, decoder)
    if decoder.replaces and _REPLACEMENT in text:
        fault = f"it contains octets that are not characters of {decoder.encoding}"
        return _illegible(number, fault, text, decoder)
    return Line(number, text, decoder.guessed > guessed)


def _illegible(number: int, fault: str, content: bytes, decoder: Decoder) -> Rejected:
    text = content.decode("utf-8" if decoder.replaces else decoder.encoding or "utf-8", "replace")
    legible = Line(number, text.replace("\0", ILLEGIBLE).encode(), is_guessed=True)
    return Rejected(number, fault, (content,), legible=legible)


def _rest_of_line(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.readline(_CHUNK):
        yield chunk.rstrip(b"\n")
        if chunk.endswith(b"\n"):
            return


def _check_is_text(start: bytes) -> None:
    for signature, fault in _NOT_TEXT.items():
        if start.startswith(signature):
            raise ImportFault(fault)


def no_rows(header: bytes | None) -> str:
    """Return what is wrong with a file without rows, below its `header` if it has one."""
    if header is None:
        return "no rows: it is empty, or contains only blank lines and comments"
    return f"no rows below its header {header[:200].decode(errors='replace')!r}"


def comment(rejected: Rejected) -> bytes:
    """Return the comment line to write above a rejected line."""
    return f"# line {rejected.number}: {' '.join(rejected.reason.split())}\n".encode(
        errors="replace"
    )


N = TypeVar("N", bound=Line)


def converted(
    items: Iterable[N | Rejected],
    convert: Callable[[N], T | None],
    refusal: Callable[[Any], T | None] = lambda _: None,
) -> Iterator[Read[T] | Rejected | Passed]:
    """Apply `convert` to each line or row; a ValueError rejects it with its text.

    For None, the line has nothing to import. `refusal` returns the refusal in a rejected line, as
    far as that is legible.
    """
    for item in items:
        if isinstance(item, Rejected):
            no = None if item.legible is None else refusal(item.legible)
            yield replace(item, legible=None, refusal=no)
            continue
        if item.is_void:
            continue
        try:
            value = convert(item)
        except ValueError as error:
            undated = isinstance(error, UndatedConsent)
            no, original = refusal(item), (item.original,)
            yield Rejected(item.number, str(error), original, undated, refusal=no)
            continue
        yield Passed(item.number) if value is None else Read(item.number, value, item.original)


def checked_address(address: str, source: Line) -> str:
    """Return an address unchanged. Raises ValueError if its letters would be a guess: it is not
    ASCII, and its line not UTF-8."""
    if source.is_guessed and not address.isascii():
        raise ValueError(
            "not UTF-8, and the letters of an address are not guessed: save the file as "
            "UTF-8, or name its encoding in a mapping"
        )
    return address


def decoded(content: bytes) -> str:
    """Return the text of a line. Raises ValueError if it is not UTF-8."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not UTF-8 (octet 0x{content[error.start]:02x} at place {error.start + 1}): "
            "save the file as UTF-8"
        ) from None


_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair is a character
    rb"|(?P<wrong>u0000|u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_SUSPECT = (b"\\u0000", b"\\ud", b"\\uD")


def check_escapes(content: bytes) -> None:
    """Raise ValueError if JSON text escapes what is not text.

    That is NUL, which not every database can store, and one half of a surrogate pair
    (RFC 8259 8.2), which msgspec takes for the end of the input.
    """
    if b"\\u" not in content or not any(part in content for part in _SUSPECT):
        return
    for match in _ESCAPE.finditer(content):
        escape = match["wrong"]
        if escape == b"u0000":
            raise ValueError("it contains a NUL octet, which no text does")
        if escape:
            raise ValueError(
                f"\\{escape.decode()} at place {match.start() + 1} is one half of a character;"
                r" write both, as in \ud83d\ude00, or the character itself"
            )


def names_in(content: bytes) -> list[list[str]]:
    """Return the names in each object of a JSON text, the outermost last; [] if it is not JSON."""
    found: list[list[str]] = []

    def seen(pairs: list[tuple[str, object]]) -> None:
        found.append([name for name, _ in pairs])

    try:
        json.loads(content, object_pairs_hook=seen, parse_int=len, parse_float=len)
    except (ValueError, RecursionError):
        return []
    return found


class _NameTwice(ValueError):
    """A name appears twice in an object."""


def _check_once(pairs: list[tuple[str, object]]) -> None:
    if len(dict(pairs)) == len(pairs):
        return
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise _NameTwice(f"{name[:40]!r} appears twice in one object; give it once")
        seen.add(name)


# Made once: `json.loads` would make a decoder for each line.
_check_each = json.JSONDecoder(object_pairs_hook=_check_once, parse_int=len, parse_float=len).decode


def check_names_once(content: bytes) -> None:
    """Raise ValueError if a JSON object has a name twice (RFC 8259 4): parsers differ on those."""
    try:
        _check_each(content.decode())
    except _NameTwice:
        raise
    except (ValueError, RecursionError):  # not JSON: whoever reads it says what is wrong
        return


def keys_of(content: bytes) -> tuple[str, ...]:
    """Return the keys of a JSON object, or none if it is something else."""
    try:
        found = msgspec.json.decode(legible_json(content))
    except msgspec.MsgspecError:
        return ()
    return tuple(found) if isinstance(found, dict) else ()


def legible_json(content: bytes) -> bytes:
    """Return a line of JSON with U+FFFD for whatever is not text, escaped or not."""
    text = content.decode(errors="replace").encode()
    return _ESCAPE.sub(lambda found: b"\\ufffd" if found["wrong"] else found[0], text)


def read_object(decode: Callable[[bytes], T], content: bytes) -> T:
    """Decode one line of NDJSON.

    Raises msgspec.MsgspecError, and ValueError: it is not UTF-8, escapes what is not text, or has a
    name twice.
    """
    check_escapes(content)
    check_names_once(content)
    try:
        return decode(content)
    except UnicodeDecodeError:
        decoded(content)  # its error has the place
        raise
