"""Contacts from CSV: cells are put into the fields of the NDJSON form and checked there."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from smtpproxy.store.exchange.contact_record import convert_contact
from smtpproxy.store.exchange.csv_rows import (
    Row,
    column_key,
    read_header,
    read_rows,
    rejected_header,
)
from smtpproxy.store.exchange.lines import Contents, ImportFault, Lines, certain, converted
from smtpproxy.store.exchange.mapping import FIELDS, PLAIN, Mapping
from smtpproxy.store.exchange.providers import Layout, known_columns, layouts, recognise
from smtpproxy.store.exchange.times import read_time
from smtpproxy.store.protocols import ContactUpdate

_TRUE = frozenset({"true", "yes", "y", "1", "oui", "o", "vrai"})
_FALSE = frozenset({"false", "no", "n", "0", "non", "faux"})
_WORDS = frozenset({"occupations", "tags", "consent_channels"})
_BOOLS = frozenset({"optout_offered", "sender_disclosed", "consent_conditional", "consent_pending"})
_EVIDENCE = frozenset({"wording", "ip", "version", "form", "document_hash"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """How the file is to be taken: as it is recognised, unless something is said."""

    file_name: str = ""
    layout: str | None = None  # a layout or a provider
    own: bool = False  # in our own form, whatever it looks like
    purpose: str = ""  # what the consents of a provider's export are for


def read_csv(
    lines: Lines,
    mapping: Mapping | None,
    as_of: datetime,
    wanted: Wanted | None = None,
) -> Contents[ContactUpdate]:
    """Read rows by their header and the mapping; an empty cell says nothing.

    Without a mapping, the columns have the names of the fields, or the file is the export
    of a provider.

    Raises:
        ImportFault: a column of the mapping is not in the header, or it fits several exports.
    """
    known = mapping.columns if mapping else {*FIELDS, *known_columns("contacts")}
    header = read_header(lines, mapping.delimiter if mapping else None, known)
    if header is None:
        return Contents(iter(()))
    layout = None if mapping else _recognised(header.columns, wanted or Wanted())
    if layout is None and wanted and wanted.purpose:
        raise ImportFault(
            "--purpose is for exports of providers; here consent_purpose says it, as a column or "
            "as a constant of the mapping"
        )
    if mapping is None:
        mapping = _of_layout(layout, wanted or Wanted()) if layout else PLAIN
    places: dict[str, int] = {}
    unread = []
    header.check_once(mapping.columns.__contains__)
    for place, column in enumerate(header.columns):
        name = mapping.columns.get(column_key(column))
        if name is not None:
            places[name] = place
        elif column:
            unread.append(column)
    if "address" not in places:
        wanting = [column for column, name in mapping.columns.items() if name == "address"]
        then = "say with --mapping which column is which field"
        raise header.without_address(repr(wanting[0]), then)
    notices = [f"columns that are not read: {', '.join(unread)[:200]}"] if unread else []
    if layout is not None:
        notices.insert(0, f"taken as an export of {layout.title} ({layout.name})")
    cells = [(place, _Cell(name, mapping)) for name, place in places.items()]
    constants = [(text, _Cell(name, mapping)) for name, text in mapping.constants.items()]
    passed_over = _passed_over(layout, header.columns)

    def update(row: Row) -> ContactUpdate | None:
        if passed_over and any(row.cells[p].strip().casefold() in no for p, no in passed_over):
            return None
        certain(row.cells[places["address"]], row)
        told = [(row.cells[place].strip(), cell) for place, cell in cells]
        return convert_contact(_record(constants + told), as_of)

    rows = read_rows(lines, header)
    above = rejected_header(header, in_named_encoding=mapping.encoding is not None)
    return Contents(converted(rows, update), above, tuple(notices), lines.decoder)


def _recognised(columns: tuple[str, ...], wanted: Wanted) -> Layout | None:
    """Return the provider's layout; None for our own form.

    An export of suppressions is no list of people to be mailed: it is refused, rather than
    made into contacts.
    """
    if wanted.own:
        return None
    layout = recognise(columns, "contacts", file_name=wanted.file_name, name=wanted.layout)
    if layout is None and (others := [one for one in layouts("suppressions") if one.fits(columns)]):
        raise ImportFault(
            f"it is an export of suppressions ({', '.join(one.name for one in others)}); use "
            "suppress import, or --format csv if it is one of contacts"
        )
    return layout


def _of_layout(layout: Layout, wanted: Wanted) -> Mapping:
    """Return the mapping of a layout. Without a purpose there is no consent to be recorded."""
    mapping = layout.mapping
    if wanted.purpose:
        return replace(mapping, constants={**mapping.constants, "consent_purpose": wanted.purpose})
    columns = {c: name for c, name in mapping.columns.items() if not name.startswith("consent_")}
    return replace(mapping, columns=columns)


def _passed_over(
    layout: Layout | None, columns: tuple[str, ...]
) -> list[tuple[int, frozenset[str]]]:
    """Return the columns that tell who is not to be mailed, and what they say of them."""
    if layout is None:
        return []
    places = {column_key(column): place for place, column in enumerate(columns)}
    return [(places[name], cells) for name, cells in layout.passed_over.items() if name in places]


class _Cell:
    """Where a field of CSV stands in the NDJSON form, and how its text is read."""

    __slots__ = ("_mapping", "_name", "_read", "_values", "key", "part")

    def __init__(self, name: str, mapping: Mapping) -> None:
        self._name = name
        self._mapping = mapping
        self._values = mapping.values.get(name, {})
        prefix, _, rest = name.partition("_")
        if prefix == "consent" and rest in _EVIDENCE:
            self.part, self.key = "evidence", rest
        elif prefix in ("purchase", "consent"):
            self.part, self.key = prefix, rest
        else:
            in_provenance = name in ("supplier", "sender_disclosed")
            self.part, self.key = "provenance" if in_provenance else "", name
        self._read: Callable[[str], Any] = str
        if name in _WORDS:
            self._read = self._words
        elif name in _BOOLS:
            self._read = self._bool
        elif name.endswith("_at"):
            self._read = self._time

    def value(self, text: str) -> Any:
        """Raises `ValueError` with the name of the field and what is wrong."""
        return self._read(self._values.get(text, text))

    def _words(self, text: str) -> list[str]:
        return [word for part in text.split(self._mapping.separator) if (word := part.strip())]

    def _bool(self, text: str) -> bool:
        if text.casefold() in _TRUE:
            return True
        if text.casefold() in _FALSE:
            return False
        raise ValueError(f"{self._name}: {text[:40]!r} is neither true nor false")

    def _time(self, text: str) -> datetime | bool:
        if self._name == "informed_at" and text.casefold() in _FALSE:
            return False
        last_moment = self._name == "consent_withdrawn_at"
        try:
            return read_time(text, last_moment=last_moment, pattern=self._mapping.time_format)
        except ValueError as error:
            raise ValueError(f"{self._name}: {error}") from None


def _record(told: list[tuple[str, _Cell]]) -> dict[str, Any]:
    """Return the row in the nesting of the NDJSON form; an empty cell says nothing."""
    parts: dict[str, dict[str, Any]] = {"": {"address": ""}}
    for text, cell in told:
        if text:
            parts.setdefault(cell.part, {})[cell.key] = cell.value(text)
    record = parts[""]
    purchase, consent = parts.get("purchase", {}), parts.get("consent", {})
    # Without its time, a purchase or a consent is no record of one.
    if "at" in purchase:
        record["purchases"] = [purchase]
    if "given_at" in consent or "withdrawn_at" in consent:
        record["consents"] = [{**consent, "evidence": parts.get("evidence")}]
    if "provenance" in parts:
        record["provenance"] = parts["provenance"]
    return record
