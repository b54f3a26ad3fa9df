"""Header fields read from raw bytes (RFC 5322): folding, case, 8-bit, duplicates."""

import re
from collections.abc import Container, Iterator
from functools import lru_cache

_EMPTY_LINE = re.compile(rb"\n\r?\n")
_FIELD_END = re.compile(rb"\n(?![ \t])")
_NAME = re.compile(rb"([!-9;-~]+)[ \t]*:")
# A line with those that continue it, and its name if it is a field. Nothing is given back.
_FIELD = re.compile(rb"((?:([^ \t\n:][^\n:]*+):)?[^\n]*+\n?(?>(?:[ \t][^\n]*+\n?)*))")
_NO_FIELD = re.compile(rb"\n(?![ \t]|[!-9;-~]+[ \t]*:|\Z)")
# Nothing but fields with CRLF at the end of each line, as nearly every block is.
_SOUND = re.compile(rb"(?>(?:[!-9;-~]++[ \t]*+:[^\0\r\n]*+\r\n(?>(?:[ \t][^\0\r\n]*+\r\n)*))*)")


_Field = tuple[int, int, int]
"""Offsets of a field's first octet, of what follows its colon, and of what follows its end."""

_NONE: list[_Field] = []


class HeaderBlock:
    """The header section of a message as it came, dot-unstuffed, fields found by offset.

    White space before a colon is obsolete (RFC 5322 4.5.8) and read as if it were not there.
    Linear in the size of the block whatever the block holds. Nothing is read before it
    is asked for.
    """

    __slots__ = ("_end", "_index", "_raw")

    def __init__(self, raw: bytes) -> None:
        """`raw`: everything up to and including the empty line (which may be absent)."""
        self._raw = raw
        self._end = _end_of_fields(raw)
        self._index: dict[bytes, list[_Field]] | None = None

    def values(self, name: str) -> list[bytes]:
        """Unfolded values of every field of that name (any case), in order."""
        raw = self._raw
        return [_unfolded(raw[colon:end]) for _, colon, end in self._find(name)]

    def unfolded(self, names: Container[bytes]) -> dict[bytes, list[bytes]]:
        """Unfolded values of the fields with these lower-case names, by name, all in one pass."""
        if self._index is None:
            self._index = self._indexed()
        raw = self._raw
        return {
            name: [_unfolded(raw[colon:end]) for _, colon, end in found]
            for name, found in self._index.items()
            if name in names
        }

    def count(self, name: str) -> int:
        """How many fields of that name (any case) there are."""
        return len(self._find(name))

    def raw_values(self, name: str) -> list[bytes]:
        """The text after the colon in every field of that name, line ends included."""
        return [self._raw[colon:end] for _, colon, end in self._find(name)]

    def raw_fields(self, names: Container[bytes]) -> dict[bytes, list[bytes]]:
        """Return the fields with these lower-case names as they stand, in order of names."""
        if self._index is None:
            self._index = self._indexed()
        return {
            name: [self._raw[start:end] for start, _, end in found]
            for name, found in self._index.items()
            if name in names
        }

    def values_by_name(self, names: Container[bytes]) -> dict[bytes, list[bytes]]:
        """Return the text after the colon in the fields with these lower-case names."""
        if self._index is None:
            self._index = self._indexed()
        return {
            name: [self._raw[colon:end] for _, colon, end in found]
            for name, found in self._index.items()
            if name in names
        }

    def fields(self) -> Iterator[tuple[bytes, bytes]]:
        """(name as written, raw value with folding) of every field, in order.

        The name keeps white space that stands before the colon and the value its line
        end: in a block without defect, names and values with colons between them are the
        block up to its empty line. Lines that are no field are left out.
        """
        start = 0
        while start < self._end:
            end = self._field_end(start)
            if _NAME.match(self._raw, start, end):
                name, _, value = self._raw[start:end].partition(b":")
                yield name, value
            start = end

    @property
    def defect(self) -> str | None:
        """What cannot be read: a NUL, a line that is no field …; None when all is well."""
        sound = _SOUND.match(self._raw, 0, self._end)
        if sound is not None and sound.end() == self._end:
            return None
        head = b"\n" + self._raw[: self._end]
        if b"\0" in head:
            return f"a NUL in line {head.count(10, 0, head.index(0))}"
        ends = head.count(b"\r\n")
        if head.count(b"\r") != ends:
            return "a CR without LF: only CRLF ends a line (RFC 5321 2.3.8)"
        if head.count(b"\n") != ends + 1:
            return "an LF without CR: only CRLF ends a line (RFC 5321 2.3.8)"
        if head[1:2] in (b" ", b"\t"):
            return "line 1 continues a field, and there is none before it"
        broken = _NO_FIELD.search(head)
        if broken is not None:
            return (
                f"line {head.count(10, 0, broken.end())} is not a header field: a field is a name"
                " of printable ASCII without spaces, a colon, and a value"
            )
        return None

    def without(self, name: str) -> bytes:
        """The raw block less every field of that name; other bytes unchanged."""
        found = self._find(name)
        if not found:
            return self._raw
        kept, position = [], 0
        for start, _, end in found:
            kept.append(self._raw[position:start])
            position = end
        kept.append(self._raw[position:])
        return b"".join(kept)

    def _find(self, name: str) -> list[_Field]:
        if self._index is None:
            self._index = self._indexed()
        return self._index.get(_lowered(name), _NONE)

    def _indexed(self) -> dict[bytes, list[_Field]]:
        """Find all fields in one pass; a line that is no field belongs to none."""
        index: dict[bytes, list[_Field]] = {}
        start = 0
        for field, name in _FIELD.findall(self._raw, 0, self._end):
            end = start + len(field)
            if name:
                found = (start, start + len(name) + 1, end)
                key = name.lower()
                if key[-1] in b" \t":
                    key = key.rstrip(b" \t")
                if key in index:
                    index[key].append(found)
                else:
                    index[key] = [found]
            start = end
        return index

    def _field_end(self, position: int) -> int:
        found = _FIELD_END.search(self._raw, position, self._end)
        return self._end if found is None else found.end()


def _end_of_fields(raw: bytes) -> int:
    """Return the offset of the empty line, or of the end."""
    if raw.startswith((b"\r\n", b"\n")):
        return 0
    empty = _EMPTY_LINE.search(raw)
    return len(raw) if empty is None else empty.start() + 1


@lru_cache(maxsize=256)
def _lowered(name: str) -> bytes:
    return name.lower().encode("ascii")


def _unfolded(value: bytes) -> bytes:
    """Remove the line ends that folding put in (RFC 5322 2.2.3), and white space around it."""
    value = value.strip(b" \t\r\n")
    if b"\n" in value:
        return value.replace(b"\r\n", b"").replace(b"\n", b"")
    return value
