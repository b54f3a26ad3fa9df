"""Turning any encoding into UTF-8: the named one, the one its byte order mark shows, or a guess."""

import codecs
import io
from collections.abc import Iterator
from typing import Any, BinaryIO

BOM = codecs.BOM_UTF8
GUESSED = "cp1252"
"""The encoding of lines that are not UTF-8: Excel writes it in Western Europe."""

_UTF_16 = {
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_ASCII = bytes(range(128))
_NO_TEXT = frozenset({"idna", "punycode", "raw-unicode-escape", "unicode-escape", "undefined"})
_CHUNK = 256 * 1024
START = 64 * 1024  # octets of a file that show what it is


def encoding_named(name: str) -> str | None:
    """Return the codec for a name, or None if there is none that can be used.

    Except for UTF-16, lines are split before they are decoded, so it has to keep ASCII.
    """
    try:
        found = codecs.lookup(name).name
        if found in _NO_TEXT:
            return None
        if found == "utf-16":
            return "utf-16-le"  # without a byte order mark, which would say so
        if found.startswith("utf-16") or _ASCII.decode(found) == _ASCII.decode():
            return found
    except (LookupError, ValueError):
        pass
    return None


def unicode_of(start: bytes) -> str | None:
    """Return the codec of a file in UTF-16, with or without a byte order mark, by its start."""
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
    """Turns lines into UTF-8. `guessed` counts those that were read as CP1252."""

    def __init__(self, encoding: str | None) -> None:
        """`encoding` comes from `encoding_named`; None: UTF-8, or a guess for other lines."""
        self.encoding = encoding
        self.guessed = 0
        self.replaces = False  # invalid characters become U+FFFD
        self._is_utf8 = encoding == "utf-8"

    def opened(self, file: BinaryIO, start: bytes) -> BinaryIO:
        """Return the file to read lines from, of which `start` has already been read."""
        found, shown = unicode_of(start), start
        if start.startswith(BOM):
            self.encoding, self._is_utf8 = "utf-8", True
        elif found or (self.encoding or "").startswith("utf-16"):
            start += file.read(1)  # of LF, whose first octet ended the line in UTF-16-LE
            self.encoding, self._is_utf8 = found or self.encoding or "", True
            self.replaces = True
            start = start[2:] if start.startswith(tuple(_UTF_16)) else start
            texts = codecs.iterdecode(_chunks(file, start), self.encoding, "replace")
            file, start = _file_of(map(str.encode, texts)), b""
            shown = file.peek()
        if not has_cr_alone(shown):
            return file
        # From old spreadsheets; readers see LF.
        return _file_of(chunk.replace(b"\r", b"\n") for chunk in _chunks(file, start))

    def expect_utf8(self) -> None:
        """Stop guessing, as for JSON, which is always UTF-8."""
        self._is_utf8 = True

    def utf8(self, line: bytes) -> bytes:
        """Return the line in UTF-8, or unchanged if a later check will reject it. Raises ValueError
        if it is not in the named encoding."""
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
        """Return the encoding that the file has been read as so far."""
        return GUESSED if self.guessed else self.encoding or "utf-8"

    def note(self) -> str | None:
        """Return a notice for the user, or None if it was UTF-8 or the named encoding."""
        if self.guessed:
            lines = "line is" if self.guessed == 1 else "lines are"
            return (
                f"{self.guessed:,} {lines} not UTF-8 and read as CP1252, which Excel writes; "
                "if that is wrong, name the encoding in a mapping"
            )
        return f"read as {self.found().upper()}" if self.replaces else None


def as_it_came(text: bytes) -> bytes:
    """Return the original octets of a line whose encoding was guessed."""
    try:
        return text.decode().encode(GUESSED)
    except ValueError:  # a row of which only some lines were guessed
        return text


def _decoded(line: bytes, encoding: str, is_not: str = "not") -> str:
    try:
        return line.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{is_not} {encoding} (octet 0x{line[error.start]:02x} at place {error.start + 1}): "
            "save the file as UTF-8, or name its encoding in a mapping"
        ) from None


def has_cr_alone(start: bytes) -> bool:
    """Whether lines end with CR alone, by the first 64 KiB."""
    return b"\r" in start[:START] and b"\n" not in start[:START]


def _chunks(file: BinaryIO, start: bytes) -> Iterator[bytes]:
    yield start
    while chunk := file.read(_CHUNK):
        yield chunk


def _file_of(chunks: Iterator[bytes]) -> io.BufferedReader:
    return io.BufferedReader(_Chunks(chunks), _CHUNK)


class _Chunks(io.RawIOBase):
    """A file that consists of these chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = filter(None, chunks)
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any, /) -> int:
        self._ready = self._ready or next(self._chunks, b"")
        part, self._ready = self._ready[: len(target)], self._ready[len(target) :]
        target[: len(part)] = part
        return len(part)
