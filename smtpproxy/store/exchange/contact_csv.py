"""Contacts from CSV: cells are put into the fields of the NDJSON form and checked there."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from smtpproxy.store.exchange.contact_record import convert_contact
from smtpproxy.store.exchange.csv_rows import Row, first_line, read_header, read_rows
from smtpproxy.store.exchange.lines import Contents, ImportFault, Line, Rejected, converted
from smtpproxy.store.exchange.mapping import FIELDS, Mapping
from smtpproxy.store.exchange.times import read_time
from smtpproxy.store.protocols import ContactUpdate

_TRUE = frozenset({"true", "yes", "y", "1", "oui", "o", "vrai"})
_FALSE = frozenset({"false", "no", "n", "0", "non", "faux"})
_WORDS = frozenset({"occupations", "tags", "consent_channels"})
_BOOLS = frozenset({"optout_offered", "sender_disclosed", "consent_conditional"})
_TIMES = frozenset(name for name in FIELDS if name.endswith("_at"))


def read_csv(
    lines: Iterator[Line | Rejected], mapping: Mapping, as_of: datetime
) -> Contents[ContactUpdate]:
    """Read rows by their header and the mapping; an empty cell says nothing.

    Raises:
        ImportFault: a column of the mapping is not in the header.
    """
    first = first_line(lines)
    if first is None:
        return Contents(iter(()))
    header = read_header(first, mapping.delimiter)
    places: dict[str, int] = {}
    unread = []
    for place, column in enumerate(header.columns):
        name = mapping.columns.get(column.casefold())
        if name is None:
            unread.append(column)
        else:
            places[name] = place
    if "address" not in places:
        wanted = [column for column, name in mapping.columns.items() if name == "address"]
        raise ImportFault(
            f"line {first.number}: the header has no column {wanted[0]!r} for the address, only "
            f"{', '.join(header.columns)[:200]}; say with --mapping which column is which field"
        )
    notices = [f"columns that are not read: {', '.join(unread)[:200]}"] if unread else []

    def update(row: Row) -> ContactUpdate:
        cells = {name: row.cells[place].strip() for name, place in places.items()}
        return convert_contact(_fields(cells, mapping), as_of)

    rows = read_rows(lines, header)
    return Contents(converted(rows, update), header.content, tuple(notices))


def _fields(cells: dict[str, str], mapping: Mapping) -> dict[str, Any]:
    """Return the row in the nesting of the NDJSON form.

    Raises:
        ValueError: a cell cannot be read; the text names the field.
    """
    told = {**mapping.constants, **{name: text for name, text in cells.items() if text}}
    fields: dict[str, Any] = {"address": ""}
    purchase: dict[str, Any] = {}
    consent: dict[str, Any] = {"evidence": {}}
    provenance: dict[str, Any] = {}
    for name, text in told.items():
        value = _value(name, mapping.values.get(name, {}).get(text, text), mapping)
        part, _, rest = name.partition("_")
        if part == "purchase":
            purchase[rest] = value
        elif rest in ("wording", "ip"):
            consent["evidence"][rest] = value
        elif part == "consent":
            consent[rest] = value
        elif name in ("supplier", "sender_disclosed"):
            provenance[name] = value
        else:
            fields[name] = value
    # Without its time, a purchase or a consent is no record of one.
    if "at" in purchase:
        fields["purchases"] = [purchase]
    if "given_at" in consent or "withdrawn_at" in consent:
        fields["consents"] = [consent]
    if provenance:
        fields["provenance"] = provenance
    return fields


def _value(name: str, text: str, mapping: Mapping) -> Any:
    if name in _TIMES:
        last_moment = name == "consent_withdrawn_at"
        try:
            return read_time(text, last_moment=last_moment, pattern=mapping.time_format)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if name in _WORDS:
        return [word for part in text.split(mapping.separator) if (word := part.strip())]
    if name in _BOOLS:
        if text.casefold() in _TRUE:
            return True
        if text.casefold() in _FALSE:
            return False
        raise ValueError(f"{name}: {text[:40]!r} is neither true nor false")
    return text
