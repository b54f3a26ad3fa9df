"""Contacts from CSV: cells become fields of the NDJSON form, and are checked as such."""

import re
from collections.abc import Callable, Container, Iterator, Sequence
from collections.abc import Mapping as MappingOf
from contextlib import suppress
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from smtpproxy.store.exchange.consent_columns import (
    EVIDENCE,
    ConsentReader,
    consents_of,
    may_be_a_date,
    refusals_of,
)
from smtpproxy.store.exchange.contact_ndjson import common_refusal, refused_purpose, words_in
from smtpproxy.store.exchange.contact_record import convert_contact
from smtpproxy.store.exchange.layouts import (
    Blocked,
    Layout,
    Wanted,
    is_blocked,
    known_columns,
    recognised,
)
from smtpproxy.store.exchange.lines import (
    ILLEGIBLE,
    Contents,
    ImportFault,
    Lines,
    UndatedConsent,
    checked_address,
    converted,
)
from smtpproxy.store.exchange.mapping import FIELDS, PLAIN, Mapping
from smtpproxy.store.exchange.rows import (
    Header,
    Row,
    bare_address,
    cell_text,
    check_no_error,
    column_key,
    read_header,
    read_rows,
    readings,
    rejected_header,
)
from smtpproxy.store.exchange.times import NO_EARLIER, Notation
from smtpproxy.store.records import ContactUpdate

_WORDS = frozenset({"occupations", "tags", "consent_channels"})
_FREE = frozenset(
    {"consent_wording", "consent_form", "supplier", "purchase_product", "tags", "occupations"}
)
"""Fields that may hold any text."""
_BOOLS = frozenset({"optout_offered", "sender_disclosed", "consent_conditional", "consent_pending"})


def read_csv(
    lines: Lines, mapping: Mapping | None, as_of: datetime, wanted: Wanted | None = None
) -> Contents[ContactUpdate]:
    """Read rows by their header and the mapping; an empty cell says nothing.

    Without a mapping, the columns have the names of the fields, or the file is a provider's
    export. Raises ImportFault if the header lacks a column of the mapping, or fits several exports.
    """
    wanted = wanted or Wanted()
    known = mapping.columns_read if mapping else {*FIELDS, *known_columns("contacts")}
    header = read_header(lines, mapping.delimiter if mapping else None, known)
    if header is None:
        return Contents(iter(()))
    header = header.named()
    mapping, layout = _chosen(mapping, header, wanted)
    places = header.places(mapping.columns)
    if "address" not in places:
        wanting = [column for column, name in mapping.columns.items() if name == "address"]
        then = "map the columns to fields with --mapping (smtpproxy contact map writes one)"
        raise header.without_address(repr(wanting[0]), then)
    header.check_once(mapping.columns_read.__contains__)
    blocked = layout.blocked_columns(header.columns) if layout else []
    keys = {column_key(column) for _, column, _ in blocked}
    notices = (*lines.notices, *header.unread(mapping.columns_read | keys))
    if layout is not None:
        notices = (layout.notice, *_left_out(layout, mapping, blocked), *notices)
    reader = _Reader(mapping, places, header.columns)

    def update(row: Row) -> ContactUpdate | None:
        if is_blocked(blocked, row.cells):
            return None
        checked_address(bare_address(row.cells[places["address"]]), row)
        return reader.update(row.cells, as_of)

    free = header.free(places, _FREE)

    def refusal(row: Row) -> ContactUpdate | None:
        return _refusal(reader, row, header, places["address"], free, as_of)

    above = rejected_header(header, in_named_encoding=mapping.encoding is not None)
    items = converted(read_rows(lines, header), update, refusal)
    return Contents(items, above, notices, lines.decoder, reader.in_columns)


def _chosen(
    mapping: Mapping | None, header: Header, wanted: Wanted
) -> tuple[Mapping, Layout | None]:
    """Return the mapping to read the rows with, and the provider's layout it comes from."""
    guess = mapping is None and not wanted.own
    layout = recognised(header.columns, "contacts", wanted) if guess else None
    if layout is None and wanted.purpose:
        raise ImportFault(
            "--purpose is for exports of providers; here consent_purpose has the purpose, as a "
            "column or as a constant of the mapping"
        )
    if mapping is None:
        mapping = _of_layout(layout, wanted) if layout else PLAIN
    mapping = mapping.with_constants(wanted.constants)
    _check_dated(mapping, header, wanted)
    return mapping, layout


def _refusal(
    reader: "_Reader",
    row: Row,
    header: Header,
    address: int,
    free: Container[int],
    as_of: datetime,
) -> ContactUpdate | None:
    """Return the refusal in a rejected row, if all its readings agree."""
    found: list[ContactUpdate | None] = []
    width = len(header.columns)
    for cells in readings(row, width, header.delimiter, free):
        try:
            if ILLEGIBLE in checked_address(bare_address(cells[address]), row):
                continue
            if len(row.cells) > width:
                reader.update(cells, as_of)  # a reading that is not valid is not meant
        except ValueError:
            continue
        found.append(reader.refusal(cells, as_of))
    return common_refusal(found)


def check_constants(constants: MappingOf[str, str], as_of: datetime) -> None:
    """Check constants for every row. Raises ValueError, which names the field."""
    of_rows = {"consent_purpose": "offers", "purchase_product": "shoes"}  # a date may be alone
    record = _Reader(Mapping({}, {**of_rows, **constants}), {}, ()).record((), as_of)
    convert_contact({**record, "address": "somebody@example.com"}, as_of)


def _of_layout(layout: Layout, wanted: Wanted) -> Mapping:
    """Return the mapping of a layout. Without a purpose, its columns of consents are left out."""
    mapping = layout.mapping
    if "consent_purpose" in wanted.constants:
        return mapping
    if wanted.purpose:
        return replace(mapping, constants={**mapping.constants, "consent_purpose": wanted.purpose})
    columns = {c: name for c, name in mapping.columns.items() if not name.startswith("consent_")}
    return replace(mapping, columns=columns)


def _check_dated(mapping: Mapping, header: Header, wanted: Wanted) -> None:
    """Raise ImportFault if a constant is about consents, but no column has their dates."""
    about = sorted(name for name in wanted.constants if name.startswith("consent_"))
    dates = {"consent_given_at", "consent_withdrawn_at"}
    found = {mapping.columns.get(column_key(column)) for column in header.columns}
    if about and not mapping.consents and not dates & {*found, *mapping.constants}:
        raise ImportFault(
            f"--set {about[0]}: no column says when anybody agreed, and a consent needs its date; "
            "name the column with --mapping (smtpproxy contact map writes one)"
        )


def _left_out(layout: Layout, mapping: Mapping, blocked: Blocked) -> Iterator[str]:
    """Yield notices about what the export has and contacts do not."""
    if not set(layout.mapping.columns) <= set(mapping.columns):
        yield (
            "consents are left out, as the export does not say what people agreed to: name it with"
            " --purpose NAME; without it nobody may be mailed by consent"
        )
    if blocked:
        yield (
            "rows of people who must not be mailed are skipped: import the file with suppress"
            " import as well"
        )


class _Reader:
    """Turns the cells of a row into fields of the NDJSON form."""

    def __init__(
        self, mapping: Mapping, places: MappingOf[str, int], columns: Sequence[str]
    ) -> None:
        """`places`: the index in `columns` of each field."""
        self._constants = [
            (text, _Cell(name, mapping, None)) for name, text in mapping.constants.items()
        ]
        self._places = [
            (place, _Cell(name, mapping, columns[place])) for name, place in places.items()
        ]
        cells = [cell for _, cell in (*self._constants, *self._places)]
        self._cells = {cell.name: cell for cell in cells}
        self._by_path = {cell.path: cell for cell in cells}
        found = {column_key(column) for column in columns}
        if missing := [
            f"{name!r} of [[consent]] {table.purpose}"
            for table in mapping.consents
            for name in table.columns
            if column_key(name) not in found
        ]:
            raise ImportFault(f"the header has no column {', '.join(missing)}")
        self._consents = [
            ConsentReader(table, mapping.flags, mapping.notation, columns)
            for table in mapping.consents
        ]

    def update(self, cells: Sequence[str], as_of: datetime) -> ContactUpdate:
        """Raises ValueError, which names the column."""
        try:
            return convert_contact(self.record(cells, as_of), as_of)
        except UndatedConsent:
            raise
        except ValueError as error:
            raise ValueError(self.in_columns(str(error))) from None

    def refusal(self, cells: Sequence[str], as_of: datetime) -> ContactUpdate | None:
        """Return the refusal in a rejected row, or None if it has none, or no address."""
        refused = refusals_of(self._consents, cells, as_of)
        if not self._consents and (at := self._refused_at("consent_withdrawn_at", cells, as_of)):
            purpose = refused_purpose(self._legible("consent_purpose", cells))
            given = self._legible("consent_given_at", cells) or at
            if at >= NO_EARLIER or given < NO_EARLIER:
                refused = [{"purpose": purpose, "withdrawn_at": at}]
        found: dict[str, Any] = {
            "consents": refused,
            "profiling_objected_at": self._refused_at("profiling_objected_at", cells, as_of),
            "tags": words_in(self._legible("tags", cells)),
        }
        if not any(found.values()):
            return None
        found |= {name: self._legible(name, cells) for name in ("address", "brand")}
        with suppress(ValueError):
            return convert_contact({name: one for name, one in found.items() if one}, as_of)
        return None

    def _refused_at(self, name: str, cells: Sequence[str], as_of: datetime) -> datetime | None:
        """Return the time of a refusal in the column of a field."""
        places = [place for place, cell in self._places if cell.name == name]
        if not places:
            return None
        try:
            at: datetime | None = self._cells[name].value(cells[places[0]])
        except ValueError:
            return as_of if may_be_a_date(cells[places[0]]) else None
        return at

    def _legible(self, name: str, cells: Sequence[str]) -> Any:
        """Return the value of a field, from the row or a constant; None if none can be read."""
        with suppress(ValueError):
            for place, cell in self._places:
                if cell.name == name and (value := cell.value(cells[place])) is not None:
                    return value
            for text, cell in self._constants:
                if cell.name == name:
                    return cell.value(text)
        return None

    def in_columns(self, fault: str) -> str:
        """Return a fault about a field of the NDJSON form with the CSV's name for it."""
        if self._consents and fault.startswith("consents"):
            return fault
        fault = fault.replace("consents: no stream", "consents: purpose no stream")
        path, _, wrong = fault.partition(": ")
        cell = self._by_path.get(re.sub(r"\[\d+\]", "", path))
        if cell is None and (found := re.match(r"(\w+): (\w+)|(\w+)", fault)):
            cell = self._by_path.get(".".join(filter(None, found.groups())))
            wrong = fault[found.end() :].lstrip()
        if cell is None:
            return fault
        if "is unknown; expected" in wrong and cell.column:
            wrong += f"; or give its meaning with [values.{cell.name}] in a mapping"
        return f"{cell}: {wrong}"

    def record(self, cells: Sequence[str], as_of: datetime) -> dict[str, Any]:
        """Return a row nested like the NDJSON form; an empty cell says nothing."""
        parts: dict[str, dict[str, Any]] = {"": {"address": ""}}
        for text, cell in self._constants:
            if (value := cell.value(text)) is not None:
                parts.setdefault(cell.part, {})[cell.key] = value
        for place, cell in self._places:
            if (value := cell.value(cells[place])) is not None:
                parts.setdefault(cell.part, {})[cell.key] = value
        record = parts[""]
        purchase, consent = parts.get("purchases", {}), parts.get("consents", {})
        # A purchase or a consent without its time is not recorded.
        if "at" in purchase:
            self._check_named("purchase_product", purchase.get("product"), "purchase_at")
            record["purchases"] = [purchase]
        evidence = parts.get("consents.evidence", {})
        given, withdrawn = consent.get("given_at"), consent.get("withdrawn_at")
        if self._consents:
            record["consents"] = consents_of(self._consents, cells, consent, evidence, as_of)
        elif given or withdrawn:
            time = "consent_given_at" if given else "consent_withdrawn_at"
            self._check_named("consent_purpose", consent.get("purpose"), time)
            if given and withdrawn and NO_EARLIER <= withdrawn < given:
                names = ("consent_withdrawn_at", "consent_given_at")
                raise ValueError(" is before ".join(str(self._cells[name]) for name in names))
            record["consents"] = [{**consent, "evidence": evidence or None}]
        else:
            self._check_dated(cells)
        if "provenance" in parts:
            record["provenance"] = parts["provenance"]
        return record

    def _check_dated(self, cells: Sequence[str]) -> None:
        """Raise UndatedConsent if a cell names the purpose or the method of a consent."""
        for place, cell in self._places:
            if cell.name in ("consent_purpose", "consent_method") and cell.value(cells[place]):
                raise UndatedConsent(f"{cell} has no date: a consent needs its date")

    def _check_named(self, name: str, value: str | None, time: str) -> None:
        if value:
            return
        has = f"but the row has {self._cells[time]}"
        if name in self._cells:
            raise ValueError(f"{self._cells[name]}: is empty, {has}")
        raise ValueError(f"{name}: missing, {has}; map a column to it, or set it under [constants]")


class _Cell:
    """The place of a CSV field in the NDJSON form, and how its text is read."""

    __slots__ = ("_mapping", "_read", "_values", "column", "key", "name", "part")

    def __init__(self, name: str, mapping: Mapping, column: str | None) -> None:
        """`column` is its name in the header; None for a constant of the mapping."""
        self.name = name
        self.column = column
        self._mapping = mapping
        self._values = mapping.values.get(name, {})
        prefix, _, rest = name.partition("_")
        if prefix == "consent" and rest in EVIDENCE:
            self.part, self.key = "consents.evidence", rest
        elif prefix in ("purchase", "consent"):
            self.part, self.key = f"{prefix}s", rest
        else:
            in_provenance = name in ("supplier", "sender_disclosed")
            self.part, self.key = "provenance" if in_provenance else "", name
        self._read: Callable[[str], Any] = str
        if name == "address":
            self._read = bare_address
        elif name in _WORDS:
            self._read = self._words
        elif name in _BOOLS:
            self._read = self._bool
        elif name.endswith("_at"):
            self._read = self._time

    @property
    def path(self) -> str:
        """Its place in the NDJSON form."""
        return f"{self.part}.{self.key}" if self.part else self.key

    def __str__(self) -> str:
        if self.column is None:
            return f"{self.name} (under [constants] of the mapping)"
        return self.name if self.column == self.name else f'"{self.column}" ({self.name})'

    def value(self, text: str) -> Any:
        """Return the cell's value, None if it has none. Raises ValueError, naming the column."""
        text = cell_text(text)
        if self._values:
            text = cell_text(self._values.get(text, text))
        if not text:
            return None
        try:
            check_no_error(text)
            return self._read(text)
        except ValueError as error:
            raise ValueError(f"{self}: {error}") from None

    def _words(self, text: str) -> list[str]:
        return [word for part in text.split(self._mapping.separator) if (word := part.strip())]

    def _bool(self, text: str) -> bool:
        return self._mapping.flags.read(text) is True

    def _time(self, text: str) -> datetime | bool:
        if self.name == "informed_at" and text.casefold() in self._mapping.flags.false:
            return False
        last_moment = self.name == "consent_withdrawn_at"
        notation = self._mapping.notation
        if self.column is None:  # constants may use ISO 8601, whatever the file uses
            with suppress(ValueError):
                return Notation(None, notation.zone).read(text, last_moment=last_moment)
        return notation.read(text, last_moment=last_moment)
