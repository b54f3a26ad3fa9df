"""The body of a message as DKIM hashes it (RFC 6376 section 3.4), piece by piece."""

from hashlib import sha256

_BLOCK = b"\r\n" * 4096


class BodyHash:
    """SHA-256 of a body in its canonical form, in linear time and bounded memory.

    The body is dot-unstuffed, CR and LF stand in CRLF only, and its last line is ended;
    pieces may be cut anywhere. `limit` is the tag `l=`: what comes after that many
    canonical octets does not count.
    """

    __slots__ = ("_ends", "_hash", "_held", "_left", "_relaxed", "_text")

    def __init__(self, *, relaxed: bool = True, limit: int | None = None) -> None:
        self._relaxed = relaxed
        self._hash = sha256()
        self._held = b""  # a space or a CR: what it means is said by what follows
        self._ends = 0  # line ends that do not count at the end of the body
        self._text = False
        self._left = limit

    def feed(self, piece: bytes) -> None:
        data = self._held + piece
        if self._relaxed:
            data = relaxed_space(data).replace(b" \r\n", b"\r\n")
            text = data.rstrip(b" \r\n")
        else:
            text = data.rstrip(b"\r\n")
        tail = data[len(text) :]
        ends = tail.count(b"\r\n")
        self._held = tail[2 * ends :]
        if not text:
            self._ends += ends
            return
        self._line_ends(self._ends)
        self._update(text)
        self._text = True
        self._ends = ends

    def digest(self) -> bytes:
        """Return the hash; nothing may be fed afterwards."""
        if self._text or not self._relaxed:  # RFC 6376 3.4.3 and 3.4.4: an empty body differs
            self._update(b"\r\n")
        return self._hash.digest()

    @property
    def short(self) -> bool:
        """Whether the body, once digested, has less octets than `limit` asks for."""
        return bool(self._left)

    def _line_ends(self, count: int) -> None:
        blocks, rest = divmod(count, len(_BLOCK) // 2)
        for _ in range(blocks):
            self._update(_BLOCK)
        if rest:
            self._update(_BLOCK[: 2 * rest])

    def _update(self, data: bytes) -> None:
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        self._hash.update(data)


def relaxed_space(data: bytes) -> bytes:
    """Return `data` with every run of spaces and tabs made one space.

    Each pass halves the runs, so there are as many as the longest run has binary digits. A
    regular expression takes ten times as long for a body full of short runs.
    """
    data = data.replace(b"\t", b" ")
    while b"  " in data:
        data = data.replace(b"  ", b" ")
    return data
