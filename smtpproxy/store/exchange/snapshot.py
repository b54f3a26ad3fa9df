"""The file of suppressions for a partner: it holds hashes, and no address.

NDJSON. The first line has the sender, the key, the time, the number of lines that follow, and
their digest. The digest is keyed, so that only the two partners can make a file that is accepted.
Each other line is one suppression: `hash` is that of the address, and `variants` the one
that all spellings of a mailbox share.
"""

import shutil
from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256
from hmac import compare_digest
from tempfile import TemporaryFile
from typing import BinaryIO, Literal

import msgspec

from smtpproxy.policy.model import Suppression
from smtpproxy.store.exchange.suppression_record import read_origin, read_scope
from smtpproxy.store.exchange.times import read_time, written_time
from smtpproxy.store.keys import KeyPair, SnapshotRow, SuppressionKey

_LONGEST_LINE = 4_096
_encode = msgspec.json.Encoder().encode


class SnapshotFault(ValueError):
    """The file is not a snapshot that can be accepted; the text says why."""


class SnapshotHead(msgspec.Struct, frozen=True):
    """The first line of a snapshot. `partner` is its maker's name for the other side."""

    snapshot: Literal["smtpproxy-suppressions-1"]
    partner: str
    sender: str
    key: str
    taken_at: str
    count: int
    digest: str

    @property
    def at(self) -> datetime:
        return read_time(self.taken_at)


class _Row(msgspec.Struct, frozen=True):
    hash: str
    variants: str
    scope: str
    origin: str
    since: str


_read_head = msgspec.json.Decoder(SnapshotHead).decode
_read_row = msgspec.json.Decoder(_Row).decode


class SnapshotWriter:
    """Collects a snapshot in a temporary file, as its first line has the digest of all others."""

    def __init__(self, key: SuppressionKey) -> None:
        self._key = key
        self._body = TemporaryFile()  # noqa: SIM115 - `close` closes it
        self._hash = sha256()
        self.count = 0

    def close(self) -> None:
        self._body.close()

    def add(self, keys: KeyPair, suppression: Suppression) -> None:
        """Add one suppression with its keys for the partner."""
        wide, exact = keys
        since = written_time(suppression.since)
        row = _Row(exact.hex(), wide.hex(), suppression.scope, str(suppression.origin), since)
        line = _encode(row) + b"\n"
        self._hash.update(line)
        self._body.write(line)
        self.count += 1

    def write(self, output: BinaryIO, *, partner: str, sender: str, taken_at: datetime) -> None:
        taken = written_time(taken_at)
        digest = _digest(self._key, sender, taken, self.count, self._hash.hexdigest())
        head = SnapshotHead(
            "smtpproxy-suppressions-1",
            partner,
            sender,
            self._key.fingerprint,
            taken,
            self.count,
            digest,
        )
        output.write(_encode(head) + b"\n")
        self._body.seek(0)
        shutil.copyfileobj(self._body, output)


def read_snapshot(
    file: BinaryIO, key: SuppressionKey
) -> tuple[SnapshotHead, Iterator[SnapshotRow]]:
    """Read a snapshot under the key shared with its maker.

    The rows can only be trusted once the iterator has ended: it checks their number and digest
    last. Raises SnapshotFault, also from the iterator.
    """
    try:
        head = _read_head(file.readline(_LONGEST_LINE))
        read_time(head.taken_at)
    except ValueError as error:
        raise SnapshotFault(
            f"line 1: not a snapshot as `suppress export --partner` writes it ({error})"
        ) from error
    if head.key != key.fingerprint:
        raise SnapshotFault(
            f"made with another key ({head.key}, the one shared with this partner is"
            f" {key.fingerprint}): both sides need the same key file"
        )
    return head, _rows(file, key, head)


def _rows(file: BinaryIO, key: SuppressionKey, head: SnapshotHead) -> Iterator[SnapshotRow]:
    seen, count = sha256(), 0
    while line := file.readline(_LONGEST_LINE):
        seen.update(line)
        count += 1
        try:
            row = _read_row(line)
            keys = bytes.fromhex(row.variants), bytes.fromhex(row.hash)
            if (len(keys[0]), len(keys[1])) != (16, 32):
                raise ValueError("hash must have 64 digits, and variants 32")
            scope, origin = read_scope(row.scope), read_origin(row.origin)
            yield SnapshotRow(keys, scope, origin, read_time(row.since))
        except ValueError as error:
            raise SnapshotFault(f"line {count + 1}: {error}") from error
    if count != head.count:
        raise SnapshotFault(f"incomplete: {count:,} of {head.count:,} suppressions")
    wanted = _digest(key, head.sender, head.taken_at, count, seen.hexdigest())
    if not compare_digest(wanted.encode(), head.digest.encode()):
        raise SnapshotFault("changed in transit, or not made by the partner: the digest is wrong")


def _digest(key: SuppressionKey, sender: str, taken_at: str, count: int, rows: str) -> str:
    return key.seal("\n".join(["smtpproxy snapshot", sender, taken_at, str(count), rows]))
