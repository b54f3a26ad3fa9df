"""A suppression as a CSV row or an NDJSON object (design.md section 7), and back again."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

import msgspec

from smtpproxy.mail.address import AddressError, canonical
from smtpproxy.policy.model import Origin, Suppression
from smtpproxy.store.exchange.csv_rows import Header, Row, first_line, read_header, read_rows
from smtpproxy.store.exchange.lines import Contents, ImportFault, Line, Rejected, converted
from smtpproxy.store.exchange.times import read_time, written_time
from smtpproxy.store.protocols import SuppressionEntry

COLUMNS = ("address", "scope", "origin", "since", "note")
KEY_PREFIX = "hmac:"
_SCOPE = re.compile(
    r"all|marketing|purpose:[^\x00-\x20\x7f](?:[^\x00-\x1f\x7f]{0,198}[^\x00-\x20\x7f])?"
)
_ORIGINS = {str(origin): origin for origin in Origin}


def read_scope(text: str) -> str:
    """Raises `ValueError` when it is no scope."""
    if _SCOPE.fullmatch(text) is None:
        raise ValueError(f"scope: {text[:40]!r} is none of all, marketing and purpose:NAME")
    return text


def read_origin(text: str) -> Origin:
    """Raises `ValueError` when it is no origin."""
    if text not in _ORIGINS:
        raise ValueError(f"origin: {text[:40]!r} is none of {', '.join(_ORIGINS)}")
    return _ORIGINS[text]


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for lines that do not say it themselves."""

    since: datetime  # the time of the file
    scope: str = ""
    origin: str = ""

    def entry(
        self, address: str, scope: str, origin: str, since: str, note: str
    ) -> SuppressionEntry:
        """Check one suppression.

        Raises:
            ValueError: the text names the field, what is wrong and what would be right.
        """
        if not address.startswith(KEY_PREFIX):
            try:
                address = canonical(address)
            except AddressError as error:
                raise ValueError(f"address: {error}") from None
        try:
            at = read_time(since, last_moment=True) if since else self.since
        except ValueError as error:
            raise ValueError(f"since: {error}") from None
        return SuppressionEntry(
            address,
            read_scope(scope or self.scope),
            read_origin(origin or self.origin),
            at,
            note or None,
        )


class SuppressionRecord(msgspec.Struct, forbid_unknown_fields=True):
    address: str
    scope: str | None = None
    origin: str | None = None
    since: str | None = None
    note: str | None = None


_decode = msgspec.json.Decoder(SuppressionRecord).decode


def read_ndjson(lines: Iterator[Line | Rejected], defaults: Defaults) -> Contents[SuppressionEntry]:
    """Read one JSON object a line, with the fields of COLUMNS."""

    def entry(line: Line) -> SuppressionEntry:
        try:
            record = _decode(line.content)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{error}; the fields are {', '.join(COLUMNS)}, all text") from None
        return defaults.entry(
            record.address,
            record.scope or "",
            record.origin or "",
            record.since or "",
            record.note or "",
        )

    return Contents(converted(lines, entry))


def read_csv(lines: Iterator[Line | Rejected], defaults: Defaults) -> Contents[SuppressionEntry]:
    """Read CSV by its header; without one, the columns are those of COLUMNS in this order.

    Raises:
        ImportFault: the header has no address.
    """
    first = first_line(lines)
    if first is None:
        return Contents(iter(()))
    header = read_header(first)
    names = [column.casefold() for column in header.columns]
    notices = []
    if not set(names) & set(COLUMNS) and "@" in names[0]:
        header = Header(COLUMNS, header.delimiter, b"")
        names = list(COLUMNS)
        lines = chain([first], lines)
        notices.append(f"no header: taken as {','.join(COLUMNS)}")
    if "address" not in names:
        raise ImportFault(
            f"line {first.number}: the header has no column `address`, only "
            f"{', '.join(header.columns)[:200]}; expected {','.join(COLUMNS)}"
        )
    if others := [column for column in header.columns if column.casefold() not in COLUMNS]:
        notices.append(f"columns that are not read: {', '.join(others)[:200]}")
    places = [names.index(name) if name in names else None for name in COLUMNS]

    def entry(row: Row) -> SuppressionEntry:
        cells = row.cells
        return defaults.entry(*["" if place is None else cells[place].strip() for place in places])

    rows = read_rows(lines, header)
    return Contents(converted(rows, entry), header.content or None, tuple(notices))


def csv_line(address: str, suppression: Suppression) -> str:
    """Return the CSV line of a suppression, without its end."""
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(
        [
            address,
            suppression.scope,
            suppression.origin,
            written_time(suppression.since),
            suppression.note or "",
        ]
    )
    return out.getvalue()


def ndjson_line(address: str, suppression: Suppression) -> str:
    """Return the NDJSON line of a suppression, without its end."""
    return msgspec.json.encode(
        SuppressionRecord(
            address,
            suppression.scope,
            suppression.origin,
            written_time(suppression.since),
            suppression.note,
        )
    ).decode()
