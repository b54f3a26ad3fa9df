"""Lines of a file of any size and encoding, with bounded memory."""

import codecs
import io
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, Generic, TypeVar

BOM = codecs.BOM_UTF8
GUESSED = "cp1252"
"""What a line is read as that is not UTF-8: Excel writes it in Western Europe."""

_UTF_16 = {
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_ASCII = bytes(range(128))
_NO_TEXT = frozenset({"idna", "punycode", "raw-unicode-escape", "unicode-escape", "undefined"})
_CHUNK = 256 * 1024


def encoding_named(name: str) -> str | None:
    """Return the encoding of that name as it is used here; None when it is none.

    Besides UTF-16, lines are parted before they are decoded: ASCII has to stay what it is.
    """
    try:
        found = codecs.lookup(name).name
        if found in _NO_TEXT:
            return None
        if found.startswith("utf-16") or _ASCII.decode(found) == _ASCII.decode():
            return found
    except (LookupError, ValueError):
        pass
    return None


def unicode_of(start: bytes) -> str | None:
    """Return the encoding when the file that starts so is UTF-16, with or without its mark."""
    for mark, name in _UTF_16.items():
        if start.startswith(mark):
            return name
    half = len(start) // 2
    if half and start[1::2].count(0) > half // 2 and not start[::2].count(0):
        return "utf-16-le"
    if half and start[::2].count(0) > half // 2 and not start[1::2].count(0):
        return "utf-16-be"
    return None


class Decoder:
    """Turns lines into UTF-8. `guessed` counts those that were taken for CP1252."""

    def __init__(self, encoding: str | None) -> None:
        """`encoding` is one that `encoding_named` returned; None: UTF-8 unless it is not."""
        self.encoding = encoding
        self.guessed = 0
        self.replaces = False  # what is no character comes as U+FFFD
        self._is_utf8 = encoding == "utf-8"

    def opened(self, file: BinaryIO, start: bytes) -> BinaryIO:
        """Return the file to read lines from, when `start` was read of it already."""
        found = unicode_of(start)
        if start.startswith(BOM):
            self.encoding, self._is_utf8 = "utf-8", True
        elif found or (self.encoding or "").startswith("utf-16"):
            transcoded = _Transcoded(file, start, found or self.encoding or "")
            self.encoding, self._is_utf8 = transcoded.encoding, True
            self.replaces = True
            return io.BufferedReader(transcoded, _CHUNK)
        return file

    def expect_utf8(self) -> None:
        """Guess no more: what the file holds is always UTF-8, as JSON is."""
        self._is_utf8 = True

    def utf8(self, line: bytes) -> bytes:
        """Return the line in UTF-8, or as it is when it has to be found wanting later.

        Raises:
            ValueError: it is not in the encoding that was named.
        """
        if line.isascii():
            return line
        if self.encoding is not None and not self._is_utf8:
            return _decoded(line, self.encoding).encode()
        try:
            line.decode()
        except UnicodeDecodeError:
            if self._is_utf8:
                return line
        else:
            self._is_utf8 = True
            return line
        text = _decoded(line, GUESSED, "neither UTF-8 nor").encode()
        self.guessed += 1
        return text

    def found(self) -> str:
        """Return what the file was read as, as far as it was."""
        return GUESSED if self.guessed else self.encoding or "utf-8"

    def note(self) -> str | None:
        """Return what its user ought to know of that; None: it was UTF-8, or as named."""
        if self.guessed:
            lines = "line is" if self.guessed == 1 else "lines are"
            return (
                f"{self.guessed:,} {lines} not UTF-8 and read as CP1252, which Excel writes; "
                "if that is wrong, name the encoding in a mapping"
            )
        return f"read as {self.found().upper()}" if self.replaces else None


def as_it_came(text: bytes, *, guessed: bool) -> bytes:
    """Return the octets that became `text`, as far as that was guessed."""
    try:
        return text.decode().encode(GUESSED) if guessed else text
    except ValueError:  # a row of which only some lines were
        return text


def _decoded(line: bytes, encoding: str, is_not: str = "not") -> str:
    try:
        return line.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{is_not} {encoding} (octet 0x{line[error.start]:02x} at place {error.start + 1}): "
            "save the file as UTF-8, or name its encoding in a mapping"
        ) from None


class _Transcoded(io.RawIOBase):
    """A file in UTF-16, as UTF-8. What is no character becomes U+FFFD."""

    def __init__(self, file: BinaryIO, start: bytes, encoding: str) -> None:
        self.encoding = encoding
        marked = start.startswith(tuple(_UTF_16))
        self._file = file
        self._start = start[2:] if marked else start
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any, /) -> int:
        while not self._ready:
            chunk, self._start = self._start or self._file.read(_CHUNK), b""
            self._ready = self._decoder.decode(chunk, final=not chunk).encode()
            if not chunk:
                break
        part, self._ready = self._ready[: len(target)], self._ready[len(target) :]
        target[: len(part)] = part
        return len(part)


T = TypeVar("T")

MAX_LINE = 1024 * 1024
_REPLACEMENT = "\ufffd".encode()
_COMMENT = re.compile(rb"# line \d+: ")
_NOT_TEXT = {
    b"\xd0\xcf\x11\xe0": "it is an old or encrypted spreadsheet; save it as XLSX or CSV in UTF-8",
    b"PK\x03\x04": "it is a spreadsheet or an archive; save it as CSV in UTF-8",
    b"\x1f\x8b": "it is compressed; unpack it first (gunzip)",
}


class ImportFault(Exception):
    """The file as a whole cannot be imported; the text says why and what would do."""


class UndatedConsent(ValueError):
    """A row says that somebody agreed, and not when."""


@dataclass(frozen=True, slots=True)
class Line:
    number: int
    content: bytes  # without its end
    is_guessed: bool = False  # its encoding is not known, and was not UTF-8

    @property
    def original(self) -> bytes:
        return as_it_came(self.content, guessed=self.is_guessed)

    @property
    def is_void(self) -> bool:
        """Whether it is blank, or a comment of a FILE.rejected."""
        return self.content.isspace() or not self.content or bool(_COMMENT.match(self.content))


@dataclass(frozen=True, slots=True)
class Rejected:
    """A rejected line. `original` is read once, before the next line."""

    number: int
    reason: str
    original: Iterable[bytes]
    is_undated: bool = False  # a consent without its date
    refusal: Any = None  # what it refuses holds all the same: a value as `Read` has it


@dataclass(frozen=True, slots=True)
class Passed:
    """A line that says nothing of what is imported, such as a subscriber among unsubscribes."""

    number: int


@dataclass(frozen=True, slots=True)
class Read(Generic[T]):
    """What a line says."""

    number: int
    value: T
    content: bytes


@dataclass(frozen=True, slots=True)
class Contents(Generic[T]):
    """An opened file."""

    items: Iterator[Read[T] | Rejected | Passed]
    header: bytes | None = None  # the first line of a CSV file
    notices: tuple[str, ...] = ()  # what its user ought to know
    decoder: Decoder | None = None  # how it is read
    worded: Callable[[str], str] = str  # a fault that names a field, in words of the file


class Lines(Iterator[Line | Rejected]):
    """The lines of a file, which can be given back, and what they were read as."""

    def __init__(
        self,
        lines: Iterable[Line | Rejected],
        decoder: Decoder | None = None,
        notices: tuple[str, ...] = (),
    ) -> None:
        """`notices`: what the user of the file ought to know."""
        self.decoder = decoder or Decoder("utf-8")
        self.notices = notices
        self._lines = iter(lines)
        self._given_back: deque[Line | Rejected] = deque()

    def __next__(self) -> Line | Rejected:
        return self._given_back.popleft() if self._given_back else next(self._lines)

    def give_back(self, lines: Sequence[Line | Rejected]) -> None:
        self._given_back.extendleft(reversed(lines))


def read_lines(file: BinaryIO, encoding: str | None = None) -> Lines:
    """Read lines, as UTF-8; one that is longer than MAX_LINE or holds NUL is rejected.

    Lines end with LF or CRLF; a byte order mark at the start of a line is dropped. Without
    an `encoding`, lines that are not UTF-8 are taken for CP1252, unless others of the file
    showed that it is UTF-8.

    Raises:
        ImportFault: the file is no text, with the first line.
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
            yield _line(number, content.removeprefix(BOM).rstrip(b"\r\n"), decoder)
        content = opened.readline(MAX_LINE)


def _line(number: int, content: bytes, decoder: Decoder) -> Line | Rejected:
    guessed = decoder.guessed
    try:
        text = decoder.utf8(content)
    except ValueError as error:
        return Rejected(number, str(error), (content,))
    if b"\0" in text:
        return Rejected(number, "it holds a NUL octet: no text has one", (text,))
    if decoder.replaces and _REPLACEMENT in text:
        return Rejected(number, f"it holds what is no character of {decoder.encoding}", (text,))
    return Line(number, text, decoder.guessed > guessed)


def _rest_of_line(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.readline(_CHUNK):
        yield chunk.rstrip(b"\n")
        if chunk.endswith(b"\n"):
            return


def _check_is_text(start: bytes) -> None:
    for signature, fault in _NOT_TEXT.items():
        if start.startswith(signature):
            raise ImportFault(fault)


def comment(rejected: Rejected) -> bytes:
    """Return the line above a rejected one."""
    return f"# line {rejected.number}: {' '.join(rejected.reason.split())}\n".encode(
        errors="replace"
    )


N = TypeVar("N", bound=Line)


def converted(
    items: Iterable[N | Rejected],
    convert: Callable[[N], T | None],
    refusal: Callable[[N], T | None] = lambda _: None,
) -> Iterator[Read[T] | Rejected | Passed]:
    """Apply `convert` to each line or row; a ValueError puts it aside with its text.

    None passes the line over. `refusal` tells what one that is put aside refuses.
    """
    for item in items:
        if isinstance(item, Rejected):
            yield item
            continue
        if item.is_void:
            continue
        try:
            value = convert(item)
        except ValueError as error:
            undated = isinstance(error, UndatedConsent)
            yield Rejected(item.number, str(error), (item.original,), undated, refusal(item))
            continue
        yield Passed(item.number) if value is None else Read(item.number, value, item.original)


def certain(address: str, source: Line) -> str:
    """Return an address as it is, unless its letters are no more than a guess.

    Raises:
        ValueError: it is not ASCII, and its line not UTF-8.
    """
    if source.is_guessed and not address.isascii():
        raise ValueError(
            "not UTF-8, and the letters of an address are not guessed: save the file as "
            "UTF-8, or name its encoding in a mapping"
        )
    return address


def decoded(content: bytes) -> str:
    """Return the text of a line.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not UTF-8 (octet 0x{content[error.start]:02x} at place {error.start + 1}): "
            "save the file as UTF-8"
        ) from None


_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # as JSON writes it; raw it is no JSON


def check_no_nul(content: bytes) -> None:
    """Raise ValueError where a text of JSON holds NUL, which not every database keeps."""
    if b"\\u0000" in content and _NUL.search(content):
        raise ValueError("it holds a NUL octet: no text has one")


def read_object(decode: Callable[[bytes], T], content: bytes) -> T:
    """Decode one line of NDJSON.

    Raises msgspec.MsgspecError, and ValueError: it is not UTF-8, or holds NUL.
    """
    check_no_nul(content)
    try:
        return decode(content)
    except UnicodeDecodeError:
        decoded(content)  # it says where in the line
        raise
