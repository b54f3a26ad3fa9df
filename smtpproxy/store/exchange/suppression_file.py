"""Files of suppressions: our own form, an export of a provider, or any CSV with a mapping."""

from collections import Counter
from collections.abc import Callable, Iterable
from collections.abc import Mapping as MappingOf
from itertools import chain

import msgspec

from smtpproxy.policy.model import Origin
from smtpproxy.store.exchange.layouts import (
    NO_SUPPRESSION,
    Layout,
    Wanted,
    When,
    known_columns,
    origin_in,
    recognised,
)
from smtpproxy.store.exchange.lines import (
    ILLEGIBLE,
    Contents,
    ImportFault,
    Line,
    Lines,
    checked_address,
    converted,
    keys_of,
    read_object,
)
from smtpproxy.store.exchange.mapping import Mapping
from smtpproxy.store.exchange.rows import (
    NULLS,
    Header,
    Row,
    bare_address,
    column_key,
    one_object_a_line,
    read_header,
    read_rows,
    readings,
    rejected_header,
)
from smtpproxy.store.exchange.suppression_record import (
    COLUMNS,
    DOMAIN_ORIGINS,
    Defaults,
    is_whole_domain,
    read_origin,
    read_record,
    refusal_in,
)
from smtpproxy.store.exchange.tables import unguarded
from smtpproxy.store.records import SuppressionEntry

SCOPES = {
    Origin.BOUNCE: "all",
    Origin.COMPLAINT: "all",
    Origin.MANUAL: "all",
    Origin.EXTERNAL: "all",
    Origin.ERASURE: "marketing",
    Origin.UNSUBSCRIBE: "marketing",
    Origin.OBJECTION: "marketing",
}
"""The scope of rows without one in an export or a mapped CSV, by origin.

Providers keep the addresses of bounces and complaints from all mail. People who unsubscribe or
object refuse marketing, and still get a receipt.
"""

_OF_PURPOSE = frozenset({Origin.UNSUBSCRIBE, Origin.OBJECTION})
_EVERY_LIST = frozenset({"", "*"})
_OUR_COLUMNS = frozenset(COLUMNS) - {"address"}
_OWN = Mapping({name: name for name in COLUMNS})


def read_csv(
    lines: Lines, defaults: Defaults, wanted: Wanted | None = None
) -> Contents[SuppressionEntry]:
    """Read CSV by its header; without one, the columns are those of COLUMNS in this order.

    Raises ImportFault if the header has no address, fits several exports, or not the one named.
    """
    wanted = wanted or Wanted()
    mapping, layout = wanted.mapping, None
    known = mapping.columns if mapping else {*COLUMNS, *known_columns("suppressions")}
    header = read_header(lines, mapping.delimiter if mapping else None, known)
    if header is None:
        return Contents(iter(()))
    if mapping and defaults.purpose and "list" not in mapping.columns.values():
        raise ImportFault("--purpose is for lists, but the mapping has no column for `list`")
    names = [column_key(column) for column in header.columns]
    if mapping is None and (wanted.layout or not (wanted.own or _is_own(names))):
        layout = recognised(header.columns, "suppressions", wanted, origin=defaults.origin)
        mapping = layout.mapping if layout else None
    notices: tuple[str, ...] = _notices(layout, defaults) if layout else ()
    if mapping is None:
        _check_only_scopes(defaults)
        mapping = _OWN
        if not set(names) & set(COLUMNS) and "@" in names[0]:
            lines.give_back([Line(header.number, header.content)])
            header = Header(COLUMNS, header.delimiter, b"")
            notices = (f"no header: taken as {','.join(COLUMNS)}",)
    if layout is None:
        notices = (*notices, *header.unread(mapping.columns))
    notices = (*lines.notices, *notices)
    above = rejected_header(header, in_named_encoding=mapping.encoding is not None) or None
    reader = _Reader(mapping, defaults, layout, wanted.constants)
    convert = _row_entry(header, reader, mapping)
    refusal = _row_refusal(header, mapping, convert)
    items = converted(read_rows(lines, header), convert, refusal)
    return Contents(items, above, notices, lines.decoder)


def _row_entry(
    header: Header, reader: "_Reader", mapping: Mapping
) -> Callable[[Row], SuppressionEntry | None]:
    """Return the converter of rows. Raises ImportFault if the header has no address, or two."""
    places = header.places(mapping.columns)
    if "address" not in places:
        wanting = next(column for column, name in mapping.columns.items() if name == "address")
        then = "the mapping sets the columns"
        if mapping is _OWN:
            own = ",".join(COLUMNS)
            then = f"expected {own}, an export of a provider, or --mapping (docs/data.md)"
            raise header.without_address("`address`", then)
        raise header.without_address(repr(wanting), then)
    header.check_once({name for when in reader.when for name in when.columns}.__contains__)
    columns = [column_key(column) for column in header.columns]
    address = places["address"]
    called = {
        name: f'"{header.columns[place]}" ({name})'
        for name, place in places.items()
        if name != header.columns[place]
    }

    def entry(row: Row) -> SuppressionEntry | None:
        cells = list(row.cells)
        cells[address] = checked_address(bare_address(cells[address]), row)
        try:
            return reader.entry(dict(zip(columns, cells, strict=False)))
        except ValueError as error:
            name, _, wrong = str(error).partition(": ")
            if mapping is _OWN or name not in called:
                raise
            if name in ("origin", "scope") and " is not one of " in wrong:
                wrong += f"; or give its meaning with [values.{name}] in a mapping"
            elif name == "origin" and wrong.startswith("missing"):
                wrong += '; where an empty cell is no suppression: [constants] origin = "none"'
            raise ValueError(f"{called[name]}: {wrong}") from None

    return entry


def _row_refusal(
    header: Header, mapping: Mapping, convert: Callable[[Row], SuppressionEntry | None]
) -> Callable[[Row], SuppressionEntry | None]:
    """Return the converter of rejected rows, for those with only a faulty time or note."""
    places = header.places(mapping.columns)
    left_out = [place for name, place in places.items() if name in ("since", "note")]
    width, free = len(header.columns), header.free(places, {"note"})

    def refusal(row: Row) -> SuppressionEntry | None:
        found: dict[tuple[str, str, str], SuppressionEntry] = {}
        for cells in readings(row, width, header.delimiter, free):
            if len(row.cells) <= width:
                for place in left_out:
                    cells[place] = ""
            try:
                entry = convert(Row(row.number, row.content, row.is_guessed, cells=cells))
            except ValueError:
                continue
            if entry is not None and ILLEGIBLE not in entry.address:
                found[entry.address, entry.scope, str(entry.origin)] = entry
        return next(iter(found.values())) if len(found) == 1 else None

    return refusal


def read_ndjson(
    lines: Lines, defaults: Defaults, wanted: Wanted | None = None
) -> Contents[SuppressionEntry]:
    """Read one JSON object a line, in our own form or that of a provider's API.

    A provider's objects may also be spread over lines, as its command line prints them. Raises
    ImportFault if the first object fits several exports, or not the one named.
    """
    wanted = wanted or Wanted()
    objects = one_object_a_line(lines)
    first = next(objects, None)
    if first is None:
        return Contents(iter(()))
    objects = chain([first], objects)
    keys = keys_of(first.content) if isinstance(first, Line) else ()
    if wanted.layout or not (wanted.own or _is_own([key.casefold() for key in keys])):
        layout = None
        if keys:
            layout = recognised(keys, "suppressions", wanted, origin=defaults.origin)
        if layout is not None:
            entry = _json_entry(_Reader(layout.mapping, defaults, layout))
            notices = _notices(layout, defaults)
            return Contents(converted(objects, entry), None, notices, lines.decoder)
    _check_only_scopes(defaults)
    items = converted(
        objects,
        lambda line: read_record(line.content, defaults),
        lambda line: refusal_in(line.content, defaults),
    )
    return Contents(items, decoder=lines.decoder)


def _check_only_scopes(defaults: Defaults) -> None:
    for name in ("purpose", "brand"):
        if text := getattr(defaults, name):
            raise ImportFault(
                f"--{name} is for exports of providers; here a line's scope has it, and "
                f"--scope {name}:{text} sets it for lines without one"
            )


def _is_own(names: Iterable[str]) -> bool:
    """Whether these are our own columns: `address` alone, or with another of ours."""
    found = set(names)
    return "address" in found and (bool(found & _OUR_COLUMNS) or len(found) == 1)


def _notices(layout: Layout, defaults: Defaults) -> tuple[str, ...]:
    notices = [layout.notice]
    by_list = layout.of_list or "list" in layout.mapping.columns.values()
    if defaults.purpose and not by_list:
        raise ImportFault(
            f"{layout.name} counts for all mail of the sender, and --purpose would narrow it; "
            "leave --purpose out"
        )
    if by_list and not defaults.purpose and not defaults.scope:
        of_brand = f" of {defaults.brand}" if defaults.brand else ""
        notices.append(
            f"unsubscribes from one list count for all marketing{of_brand}; give the list's "
            "purpose with --purpose"
        )
    return tuple(notices)


class _Reader:
    """Turns the cells of a row into an entry, by a mapping and perhaps a provider's layout."""

    def __init__(
        self,
        mapping: Mapping,
        defaults: Defaults,
        layout: Layout | None = None,
        constants: MappingOf[str, str] | None = None,
    ) -> None:
        """`constants` are those of the command, and override the mapping's."""
        self._defaults = defaults
        self._constants = {**mapping.constants, **(constants or {})}
        values_of = {
            name: {text.casefold(): value for text, value in values.items()}
            for name, values in mapping.values.items()
        }
        # Looked up, not replaced: a list's name may be the same as its purpose's.
        self._purposes = values_of.pop("list", {})
        self._columns = [
            (column, name, values_of.get(name)) for column, name in mapping.columns.items()
        ]
        self._notation = mapping.notation
        self._of_provider = layout is not None
        self._of_list = layout is not None and layout.of_list
        self.when: tuple[When, ...] = layout.when if layout else ()
        self.columns = (*mapping.columns, *chain.from_iterable(w.columns for w in self.when))
        self._is_own = mapping is _OWN  # no scope by origin, and no row is skipped

    def entry(self, cells: dict[str, str]) -> SuppressionEntry | None:
        """Return the row's entry, or None if it is not a suppression.

        `cells` are by column in lower case. Raises ValueError as `Defaults.entry` does.
        """
        fields = dict(self._constants)
        for column, name, values in self._columns:
            text = cells.get(column, "").strip()
            if values and text and self._of_provider and name == "origin":
                text = origin_in(text, values) or text
            elif values and text:
                text = values.get(text.casefold(), text).strip()
            if text and text not in NULLS:
                fields[name] = text
        for when in self.when:
            if all(cells.get(c, "").strip().casefold() == text for c, text in when.columns.items()):
                fields.update(when.constants)
        origin = fields.get("origin") or self._defaults.origin
        if self._is_own:
            scope = fields.get("scope", "")
        elif origin == NO_SUPPRESSION:
            return None
        else:
            scope = fields.get("scope") or self._scope(read_origin(origin), fields)
        address = fields.get("address", "")
        if self._of_provider and is_whole_domain(address) and origin not in DOMAIN_ORIGINS:
            origin = Origin.EXTERNAL  # whatever the list, the provider blocks the domain
        note = fields.get("note", "")
        note = unguarded(note) if note else ""
        since = fields.get("since", "")
        return self._defaults.entry(address, scope, origin, since, note, self._notation)

    def _scope(self, origin: Origin, fields: dict[str, str]) -> str:
        if self._defaults.scope:
            return self._defaults.scope
        list_name = fields.get("list", "")
        name = list_name.strip("[]'\" ")
        if origin in _OF_PURPOSE and (self._of_list or name not in _EVERY_LIST):
            purpose = self._purposes.get(list_name.casefold()) or self._defaults.purpose
            if purpose:
                return f"purpose:{purpose}"
        scope = SCOPES[origin]
        brand = fields.get("brand") or self._defaults.brand
        return f"brand:{brand}" if brand and scope == "marketing" else scope


def _json_entry(reader: _Reader) -> Callable[[Line], SuppressionEntry | None]:
    decode = msgspec.json.Decoder(dict[str, str | int | float | bool | None]).decode

    def entry(line: Line) -> SuppressionEntry | None:
        try:
            fields = read_object(decode, line.content)
        except msgspec.MsgspecError as error:
            raise ValueError(f"not a JSON object of plain values: {error}") from None
        keys = Counter(map(str.casefold, fields))
        if twice := [key for key in reader.columns if keys[key] > 1]:
            raise ValueError(f"{twice[0][:40]!r} appears twice in one object; give it once")
        return reader.entry(
            {
                key.casefold(): str(value).lower() if isinstance(value, bool) else str(value)
                for key, value in fields.items()
                if value is not None
            }
        )

    return entry
