"""Which fields and octets a DKIM signature covers, and in what form (RFC 6376 3.4, 5.4)."""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

_BLOCK = b"\r\n" * 4096


class BodyHash:
    """SHA-256 of a body in its canonical form, in linear time and bounded memory.

    The body is dot-unstuffed, CR and LF occur only as CRLF, and its last line is ended; pieces may
    be cut anywhere. `limit` is the tag `l=`: what follows that many canonical octets does not
    count.
    """

    __slots__ = ("_ends", "_hash", "_held", "_left", "_relaxed", "_text")

    def __init__(self, *, relaxed: bool = True, limit: int | None = None) -> None:
        self._relaxed = relaxed
        self._hash = sha256()
        self._held = b""  # a space or a CR, whose meaning depends on what follows
        self._ends = 0  # line ends, which do not count at the end of the body
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
        """Whether the body, once digested, has fewer octets than `limit`."""
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
    """Return `data` with every run of spaces and tabs reduced to one space.

    Each pass halves the runs, so the number of passes is logarithmic in the longest one. A regular
    expression takes ten times as long for a body full of short runs.
    """
    data = data.replace(b"\t", b" ")
    while b"  " in data:
        data = data.replace(b"  ", b" ")
    return data


SIGNED = frozenset(
    b"from sender reply-to subject date message-id to cc mime-version content-type"
    b" content-transfer-encoding content-id content-description resent-date resent-from"
    b" resent-sender resent-to resent-cc resent-message-id in-reply-to references"
    b" list-id list-help list-unsubscribe list-subscribe list-post list-owner list-archive"
    b" list-unsubscribe-post feedback-id auto-submitted".split()
)
"""The fields that are signed if present: those that dkimpy recommends (RFC 6376 5.4.1), and newer
ones of bulk mail. Trace fields and those that a relay may rewrite are not signed."""

ALWAYS = (b"from", b"subject", b"to", b"list-unsubscribe", b"list-unsubscribe-post")
"""Signed once more than they occur, so that nobody can add one (RFC 6376 8.15)."""

_ONCE_MORE = frozenset(
    name for name in SIGNED if name.startswith(b"list-") or name == b"feedback-id"
).union(ALWAYS)  # if present


def to_sign(values: Mapping[bytes, Sequence[bytes]]) -> tuple[tuple[bytes, ...], bytes]:
    """Return the names for the tag `h=`, and the relaxed header to hash for it.

    `values` has what follows the colon in every field of `SIGNED`, from the top.
    """
    names: list[bytes] = []
    hashed: list[bytes] = []
    for name, found in values.items():
        for value in reversed(found):
            names.append(name)
            hashed.append(b"%b:%b\r\n" % (name, relaxed_value(value)))
        if name in _ONCE_MORE:
            names.append(name)
    names += [name for name in ALWAYS if name not in values]
    return tuple(names), b"".join(hashed)


def relaxed_value(value: bytes) -> bytes:
    """Return a field's value unfolded, its white space made single spaces (RFC 6376 3.4.2)."""
    return relaxed_space(value.replace(b"\r\n", b"")).strip(b" ")


def hashed_fields(
    names: Iterable[bytes], fields: Mapping[bytes, Sequence[bytes]], *, relaxed: bool = True
) -> bytes:
    """Return the part of the header that is hashed for a tag `h=`, without the signature itself.

    `names` are in lower case; `fields` has the raw fields of each name, from the top. They are
    taken from the bottom up; surplus names add nothing (RFC 6376 5.4.2).
    """
    left = {name: len(there) for name, there in fields.items()}
    hashed: list[bytes] = []
    for name in names:
        index = left.get(name, 0) - 1
        if index < 0:
            continue
        left[name] = index
        field = fields[name][index]
        if relaxed:
            field = b"%b:%b\r\n" % (name, relaxed_value(field.partition(b":")[2]))
        hashed.append(field)
    return b"".join(hashed)
