"""Header fields read from raw bytes (RFC 5322): folding, case, 8-bit, duplicates."""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from functools import lru_cache

_NUL, _TAB, _LF = 0, 9, 10  # as numbers, which `in` tries first
_EMPTY_LINE = re.compile(rb"\n\r?\n")
_NAME = rb"(?!--)[!-9;-~]{1,100}"  # Sendmail ends the header at any other name
_ANY_NAME = re.compile(rb"[!-9;-~]++[ \t]*+:")
# The name of a field, and its line with those that continue it; the name is empty if the line is
# not a field. Possessive, so that it takes linear time.
_FIELD = re.compile(rb"(?:(%b+)[ \t]*+:|(?!\Z))([^\n]*+\n?(?>(?:[ \t][^\n]*+\n?)*))" % _NAME)
_NO_FIELD = re.compile(rb"\n(?![ \t]|%b+[ \t]*+:|\Z)" % _NAME)
_SPACED_COLON = re.compile(rb"(?:\A|\n)%b+[ \t]++:" % _NAME)


class HeaderBlock:
    """The header section of a message as it came, dot-unstuffed.

    White space before a colon is obsolete (RFC 5322 4.5.8) and ignored. Linear in the size of the
    block, whatever is in it.
    """

    __slots__ = ("_all_fields", "_head", "_only_crlf", "by_name", "raw", "repeats")

    by_name: Mapping[bytes, tuple[bytes, ...]]
    """The text after the colon in every field, line ends included, by lower-case name."""
    repeats: bool
    """Whether any name occurs more than once."""

    def __init__(self, raw: bytes) -> None:
        """`raw`: everything up to and including the empty line (which may be absent)."""
        self.raw = raw
        self._only_crlf = raw.replace(b"\r", b"").replace(b"\n", b"\r\n") == raw
        if raw.startswith((b"\r\n", b"\n")):
            raw = b""
        elif self._only_crlf:
            raw = raw[: raw.find(b"\n\r\n") + 1 or None]
        elif empty := _EMPTY_LINE.search(raw):
            raw = raw[: empty.start() + 1]
        self._head = raw
        fields = _FIELD.findall(raw) if raw else ()
        found: dict[bytes, tuple[bytes, ...]] = {}
        for name, value in fields:
            found[name.lower()] = (value,)
        self.repeats = len(found) < len(fields)
        if self.repeats:
            found = _gathered(fields)
        self._all_fields = found.pop(b"", None) is None
        self.by_name = found

    def values(self, name: str) -> list[bytes]:
        """Unfolded values of every field of that name (any case), in order."""
        return [unfolded(value) for value in self.raw_values(name)]

    def count(self, name: str) -> int:
        """How many fields of that name (any case) there are."""
        return len(self.by_name.get(lowered(name), ()))

    def raw_values(self, name: str) -> list[bytes]:
        """The text after the colon in every field of that name, line ends included."""
        return list(self.by_name.get(lowered(name), ()))

    def values_by_name(self, names: Container[bytes]) -> dict[bytes, tuple[bytes, ...]]:
        """Return the text after the colon in the fields with these lower-case names."""
        return {name: values for name, values in self.by_name.items() if name in names}

    def raw_fields(self, names: Container[bytes]) -> dict[bytes, list[bytes]]:
        """Return the raw fields with these lower-case names, in order of names."""
        found: dict[bytes, list[bytes]] = {name: [] for name in self.by_name if name in names}
        if found:
            for name, field in self._pieces():
                if name in found:
                    found[name].append(field)
        return found

    def fields(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield name as written and raw value with folding of every field, in order.

        The name keeps white space before the colon, and the value its line end: in a block without
        defects, the names and values joined by colons are the block up to its empty line. Lines
        that are not fields are left out.
        """
        for lower, field in self._pieces():
            if lower:
                name, _, value = field.partition(b":")
                yield name, value

    @property
    def defect(self) -> str | None:
        """The first thing that cannot be read: a NUL, a line that is not a field …; or None."""
        head = self._head
        if self._all_fields and self._only_crlf and _NUL not in head:
            return None
        ends, head = head.count(b"\r\n"), b"\n" + head
        if _NUL in head:
            return f"a NUL in line {head.count(10, 0, head.index(0))}"
        if head.count(b"\r") != ends:
            return "a CR without LF: only CRLF ends a line (RFC 5321 2.3.8)"
        if head.count(b"\n") != ends + 1:
            return "an LF without CR: only CRLF ends a line (RFC 5321 2.3.8)"
        if head[1:2] in (b" ", b"\t"):
            return "line 1 continues a field, and there is none before it"
        broken = _NO_FIELD.search(head)
        if broken is not None:
            line = head.count(10, 0, broken.end())
            if _ANY_NAME.match(head, broken.end()):
                return (
                    f"line {line} has a field name that begins with -- or is longer than 100"
                    " characters: some MTAs take it for the first line of the body"
                )
            return (
                f"line {line} is not a header field: a field is a name of printable ASCII without"
                " spaces, a colon, and a value"
            )
        return None

    @property
    def spaced_colon(self) -> str | None:
        """Which field has white space before its colon, where some programs end the header."""
        head = self._head
        if head.find(b" :") < 0 and (_TAB not in head or head.find(b"\t:") < 0):
            return None  # `in` would try these pairs as numbers first
        found = _SPACED_COLON.search(head)
        if found is None:
            return None
        line = head.count(10, 0, found.end()) + 1
        return f"line {line} has a space before its colon, where some programs end the header"

    def without(self, name: str) -> bytes:
        """The raw block without any field of that name; other bytes are unchanged."""
        unwanted = lowered(name)
        if unwanted not in self.by_name:
            return self.raw
        kept = [piece for name, piece in self._pieces() if name != unwanted]
        return b"".join((*kept, self.raw[len(self._head) :]))

    def _pieces(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield lower-case name and raw field in order; b"" names a line that is not a field."""
        for found in _FIELD.finditer(self._head):
            yield (found[1] or b"").lower(), found[0]


def _gathered(fields: Iterable[tuple[bytes, bytes]]) -> dict[bytes, tuple[bytes, ...]]:
    """The values by lower-case name, for names that occur more than once."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        found.setdefault(name.lower(), []).append(value)
    return {name: tuple(values) for name, values in found.items()}


@lru_cache(maxsize=256)
def lowered(name: str) -> bytes:
    """Return a field name as a key of `by_name`."""
    return name.lower().encode("ascii")


LONGEST_LINE = 990
"""Octets of a line that no MTA cuts: RFC 5322 2.1.1 allows 998, but Sendmail cuts earlier."""


def has_long_line(name: str, value: bytes) -> bool:
    """Whether an MTA may cut a line of a field, given the text after its colon, in the middle."""
    lines = (name.encode("ascii") + b":" + value).replace(b"\r\n", b"\n").split(b"\n")
    return any(len(line) > LONGEST_LINE for line in lines)


def unfolded(value: bytes) -> bytes:
    """Return a value unfolded (RFC 5322 2.2.3) and without surrounding white space."""
    value = value.strip(b" \t\r\n")
    if _LF in value:
        return value.replace(b"\r\n", b"").replace(b"\n", b"")
    return value


_SPACE = re.compile(r"[ \t\r\n]*")
_COMMENT_MARK = re.compile(r"[()\\]")


class CommentError(ValueError):
    """A comment that is opened but not closed."""


def skip_cfws(text: str, position: int) -> int:
    """Return the offset after all comments and white space at `position`.

    Comments may nest and contain quoted pairs. Raises `CommentError`.
    """
    while True:
        position = _SPACE.match(text, position).end()  # type: ignore[union-attr]
        if not text.startswith("(", position):
            return position
        position = _comment_end(text, position)


def _comment_end(text: str, position: int) -> int:
    depth = 0
    while (found := _COMMENT_MARK.search(text, position)) is not None:
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
