"""Header fields read from raw bytes (RFC 5322): folding, case, 8-bit, duplicates."""

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import lru_cache

_EMPTY_LINE = re.compile(rb"\n\r?\n")
_FIELD_END = re.compile(rb"\n(?![ \t])")
_NAME = re.compile(rb"([!-9;-~]+)[ \t]*:")
# The name of a field, and a line with those that continue it. Nothing is given back.
_FIELD = re.compile(rb"(?:([!-9;-~]++)[ \t]*+:|)([^\n]*+\n?(?>(?:[ \t][^\n]*+\n?)*))")
_NO_FIELD = re.compile(rb"\n(?![ \t]|[!-9;-~]+[ \t]*:|\Z)")

_NONE: Sequence[bytes] = []


class HeaderBlock:
    """The header section of a message as it came, dot-unstuffed.

    White space before a colon is obsolete (RFC 5322 4.5.8) and read as if it were not there.
    Linear in the size of the block whatever the block holds. Nothing is read before it
    is asked for.
    """

    __slots__ = ("_all_fields", "_by_name", "_end", "_raw")

    def __init__(self, raw: bytes) -> None:
        """`raw`: everything up to and including the empty line (which may be absent)."""
        self._raw = raw
        self._end = _end_of_fields(raw)
        self._by_name: dict[bytes, list[bytes]] | None = None
        self._all_fields = True  # none of its lines is anything else

    def by_name(self) -> Mapping[bytes, Sequence[bytes]]:
        """The text after the colon in every field, line ends included, by lower-case name."""
        if self._by_name is None:
            self._by_name = self._read()
        return self._by_name

    def values(self, name: str) -> list[bytes]:
        """Unfolded values of every field of that name (any case), in order."""
        return [unfolded(value) for value in self.raw_values(name)]

    def count(self, name: str) -> int:
        """How many fields of that name (any case) there are."""
        return len(self.raw_values(name))

    def raw_values(self, name: str) -> Sequence[bytes]:
        """The text after the colon in every field of that name, line ends included."""
        return self.by_name().get(lowered(name), _NONE)

    def values_by_name(self, names: Container[bytes]) -> dict[bytes, Sequence[bytes]]:
        """Return the text after the colon in the fields with these lower-case names."""
        return {name: values for name, values in self.by_name().items() if name in names}

    def raw_fields(self, names: Container[bytes]) -> dict[bytes, list[bytes]]:
        """Return the fields with these lower-case names as they stand, in order of names."""
        found: dict[bytes, list[bytes]] = {name: [] for name in self.by_name() if name in names}
        if found:
            for name, field in self._pieces():
                if name in found:
                    found[name].append(field)
        return found

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
        if self._by_name is None:
            self._by_name = self._read()
        head = self._raw[: self._end]
        ends = head.count(b"\r\n")
        if (
            self._all_fields
            and head.count(b"\r") + head.count(b"\n") == 2 * ends
            and b"\0" not in head
        ):
            return None
        head = b"\n" + head
        if b"\0" in head:
            return f"a NUL in line {head.count(10, 0, head.index(0))}"
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
        unwanted = lowered(name)
        if unwanted not in self.by_name():
            return self._raw
        kept = [piece for name, piece in self._pieces() if name != unwanted]
        return b"".join((*kept, self._raw[self._end :]))

    def _read(self) -> dict[bytes, list[bytes]]:
        """Find all fields in one pass; a line that is no field belongs to none."""
        found: dict[bytes, list[bytes]] = {}
        for name, value in _FIELD.findall(self._raw, 0, self._end):
            key = name.lower()
            if key in found:
                found[key].append(value)
            else:
                found[key] = [value]
        # What has no name is no field, but for the nothing that is found at the end.
        self._all_fields = len(found.pop(b"")) == 1
        return found

    def _pieces(self) -> Iterator[tuple[bytes, bytes]]:
        """(lower-case name, field as it stands) in order; b"" for what is no field."""
        for found in _FIELD.finditer(self._raw, 0, self._end):
            yield (found[1] or b"").lower(), found[0]

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
def lowered(name: str) -> bytes:
    """The name of a field as `by_name` knows it."""
    return name.lower().encode("ascii")


def unfolded(value: bytes) -> bytes:
    """Remove the line ends that folding put in (RFC 5322 2.2.3), and white space around it."""
    value = value.strip(b" \t\r\n")
    if b"\n" in value:
        return value.replace(b"\r\n", b"").replace(b"\n", b"")
    return value
