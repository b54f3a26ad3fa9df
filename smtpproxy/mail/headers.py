"""Header fields read from raw bytes (RFC 5322): folding, case, 8-bit, duplicates."""

from collections.abc import Iterator


class HeaderBlock:
    """The header section of a message as it came, dot-unstuffed, fields found by offset.

    Linear in the size of the block whatever the block holds.
    """

    __slots__ = ()

    def __init__(self, raw: bytes) -> None:
        """`raw`: everything up to and including the empty line (which may be absent)."""

    def values(self, name: str) -> list[bytes]:
        """Unfolded values of every field of that name (any case), in order."""
        raise NotImplementedError

    def fields(self) -> Iterator[tuple[bytes, bytes]]:
        """(name as written, raw value with folding) of every field, in order."""
        raise NotImplementedError

    @property
    def defect(self) -> str | None:
        """What cannot be read: a NUL, a line that is no field …; None when all is well."""
        raise NotImplementedError

    def without(self, name: str) -> bytes:
        """The raw block less every field of that name; other bytes unchanged."""
        raise NotImplementedError
