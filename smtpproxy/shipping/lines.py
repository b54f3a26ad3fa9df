"""Shipping the lines of an audit log to a collector, each at least once, with its place."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from smtpproxy.shipping.position import Position
from smtpproxy.shipping.targets import LineTarget
from smtpproxy.sinks.audit.chain import NotALine, take_apart
from smtpproxy.sinks.audit.files import ANCHORS
from smtpproxy.sinks.audit.following import Tail

_AT_ONCE = 250  # lines in a request
_MOST = 768 * 1024
"""Octets in a request of several lines: by default, web servers accept 1 MiB."""

T = TypeVar("T", bound=tuple[Any, ...])


class Sent(msgspec.Struct):
    """The numbers of journal rows and anchors sent."""

    rows: int = 0
    anchors: int = 0

    def __add__(self, other: "Sent") -> "Sent":
        return Sent(self.rows + other.rows, self.anchors + other.anchors)


class LineShipper:
    """Ships one relay's audit log to one collector."""

    def __init__(
        self, folder: Path, relay: str, host: str, target: LineTarget, position: Position
    ) -> None:
        self._folder = folder
        self._whose = msgspec.json.encode({"relay": relay, "host": host})[:-1]
        self._target = target
        self._position = position
        self._tail = Tail(folder)
        self._anchors = (0, 0, 0)  # the last one read, its file's inode, and the offset after it

    def look(self) -> Sent:
        """Send what is new. Raises TargetUnavailable, OSError; the next call sends the rest."""
        sent = Sent()
        for slot, rows in self._tail.unread(self._position.rows):
            for batch in _batches(rows):
                self._send([self._written(file, n, raw) for file, n, raw in batch])
                self._position.rows[slot] = batch[-1][1]
                self._position.save()
                sent.rows += len(batch)
        for some in _batches(self._new_anchors()):
            self._send([self._written(ANCHORS, n, raw) for n, raw in some])
            self._position.anchor = some[-1][0]
            self._position.save()
            sent.anchors += len(some)
        return sent

    def _send(self, lines: list[bytes]) -> None:
        if wanted := [line for line in lines if line]:
            self._target.send(wanted)

    def _written(self, file: str, n: int, raw: bytes) -> bytes:
        """Return the line without its personal parts; nothing for an invalid one, which may have
        some."""
        try:
            sealed = take_apart(raw)
        except NotALine:
            return b""
        line = sealed.without(range(len(sealed.parts))).rstrip(b"\n")
        return b'%b,"file":"%b","row":%d,"line":%b}\n' % (self._whose, file.encode(), n, line)

    def _new_anchors(self) -> Iterator[tuple[int, bytes]]:
        path = self._folder / ANCHORS
        with suppress(FileNotFoundError):
            inode, offset = path.stat().st_ino, 0
            if self._anchors[:2] == (self._position.anchor, inode):  # all that was read was sent
                offset = self._anchors[2]
            with path.open("rb") as file:
                file.seek(offset)
                for raw in file:
                    offset += len(raw)
                    with suppress(NotALine):
                        n = take_apart(raw).n
                        self._anchors = (n, inode, offset)
                        if n > self._position.anchor:
                            yield n, raw


def _batches(rows: Iterable[T]) -> Iterator[list[T]]:
    """Yield the rows, each of which ends with its octets, in the batches of a request."""
    batch: list[T] = []
    size = 0
    for row in rows:
        size += len(row[-1])
        if batch and (len(batch) == _AT_ONCE or size > _MOST):
            yield batch
            batch, size = [], len(row[-1])
        batch.append(row)
    if batch:
        yield batch
