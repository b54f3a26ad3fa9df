"""Lines of a file of any size, with bounded memory."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO, Generic, Protocol, TypeVar

T = TypeVar("T")

MAX_LINE = 1024 * 1024
_CHUNK = 256 * 1024
_BOM = b"\xef\xbb\xbf"
_COMMENT = re.compile(rb"# line \d+: ")
_NOT_TEXT = {
    b"\xff\xfe": "it is UTF-16; save it as UTF-8",
    b"\xfe\xff": "it is UTF-16; save it as UTF-8",
    b"PK\x03\x04": "it is a spreadsheet or an archive; save it as CSV in UTF-8",
    b"\x1f\x8b": "it is compressed; unpack it first (gunzip)",
}


class ImportFault(Exception):
    """The file as a whole cannot be imported; the text says why and what would do."""


@dataclass(frozen=True, slots=True)
class Line:
    number: int
    content: bytes  # without its end

    @property
    def is_void(self) -> bool:
        """Whether it is blank, or a comment of a FILE.rejected."""
        return self.content.isspace() or not self.content or bool(_COMMENT.match(self.content))


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line that is put aside. `original` is read once, before the next line."""

    number: int
    reason: str
    original: Iterable[bytes]


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


def read_lines(file: BinaryIO) -> Iterator[Line | Rejected]:
    """Yield the lines; one of more than MAX_LINE octets is rejected.

    Lines end with LF or CRLF; a byte order mark at the start of a line is dropped.

    Raises:
        ImportFault: the file is no text.
    """
    number = 0
    while content := file.readline(MAX_LINE):
        number += 1
        if number == 1:
            _check_is_text(content)
        if len(content) == MAX_LINE and not content.endswith(b"\n"):
            rest = _rest_of_line(file)
            yield Rejected(
                number, f"longer than {MAX_LINE} octets: split it up", chain([content], rest)
            )
            for _ in rest:
                pass
            continue
        yield Line(number, content.removeprefix(_BOM).rstrip(b"\r\n"))


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
    """Return the line that stands above a rejected one."""
    return f"# line {rejected.number}: {' '.join(rejected.reason.split())}\n".encode(
        errors="replace"
    )


class _Numbered(Protocol):
    @property
    def number(self) -> int: ...
    @property
    def content(self) -> bytes: ...
    @property
    def is_void(self) -> bool: ...


N = TypeVar("N", bound=_Numbered)


def converted(
    items: Iterable[N | Rejected], convert: Callable[[N], T | None]
) -> Iterator[Read[T] | Rejected | Passed]:
    """Apply `convert` to each line or row; a ValueError puts it aside with its text.

    None passes the line over.
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
            yield Rejected(item.number, str(error), (item.content,))
            continue
        yield Passed(item.number) if value is None else Read(item.number, value, item.content)


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
