"""Files of suppressions: our own form, an export of a provider, or any CSV with a mapping."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

import msgspec

from smtpproxy.policy.model import Origin
from smtpproxy.store.exchange.layouts import (
    NO_SUPPRESSION,
    Layout,
    When,
    known_columns,
    layouts,
    recognise,
)
from smtpproxy.store.exchange.lines import (
    Contents,
    ImportFault,
    Line,
    Lines,
    certain,
    converted,
    decoded,
)
from smtpproxy.store.exchange.mapping import Mapping
from smtpproxy.store.exchange.rows import (
    Header,
    Row,
    column_key,
    keys_of,
    one_object_a_line,
    read_header,
    read_rows,
    rejected_header,
)
from smtpproxy.store.exchange.rows import told as said
from smtpproxy.store.exchange.suppression_record import (
    COLUMNS,
    DOMAIN_ORIGINS,
    Defaults,
    is_whole_domain,
    read_origin,
    read_record,
)
from smtpproxy.store.exchange.times import ISO
from smtpproxy.store.protocols import SuppressionEntry

SCOPES = {
    Origin.BOUNCE: "all",
    Origin.COMPLAINT: "all",
    Origin.MANUAL: "all",
    Origin.EXTERNAL: "all",
    Origin.ERASURE: "all",
    Origin.UNSUBSCRIBE: "marketing",
    Origin.OBJECTION: "marketing",
}
"""The scope of rows that name none, in an export or a mapped CSV, by their origin.

Providers keep the addresses of bounces and complaints from all mail. Who unsubscribes or
objects does so from marketing, and still gets a receipt.
"""

_OF_PURPOSE = frozenset({Origin.UNSUBSCRIBE, Origin.OBJECTION})
_EVERY_LIST = frozenset({"", "*"})
_OUR_COLUMNS = frozenset(COLUMNS) - {"address"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """How the file is to be taken: as it is recognised, unless something is said."""

    file_name: str = ""
    layout: str | None = None  # a layout or a provider
    mapping: Mapping | None = None
    own: bool = False  # in our own form, whatever it looks like


def read_csv(
    lines: Lines, defaults: Defaults, wanted: Wanted | None = None
) -> Contents[SuppressionEntry]:
    """Read CSV by its header; without one, the columns are those of COLUMNS in this order.

    Raises:
        ImportFault: the header has no address, fits several exports, or not the one wanted.
    """
    wanted = wanted or Wanted()
    mapping = wanted.mapping
    known = mapping.columns if mapping else {*COLUMNS, *known_columns("suppressions")}
    header = read_header(lines, mapping.delimiter if mapping else None, known)
    if header is None:
        return Contents(iter(()))
    if wanted.mapping:
        if defaults.purpose and "list" not in wanted.mapping.columns.values():
            raise ImportFault("--purpose is about lists, and the mapping has no column for `list`")
        return _mapped(lines, header, wanted.mapping, defaults)
    names = [column_key(column) for column in header.columns]
    if wanted.layout or not (wanted.own or _is_own(names)):
        layout = _recognised(header.columns, defaults, wanted)
        if layout is not None:
            return _mapped(lines, header, layout.mapping, defaults, layout)
    _check_no_purpose(defaults)
    notices = []
    if not set(names) & set(COLUMNS) and "@" in names[0]:
        lines.give_back([Line(header.number, header.content)])
        header = Header(COLUMNS, header.delimiter, b"")
        names = list(COLUMNS)
        notices.append(f"no header: taken as {','.join(COLUMNS)}")
    if "address" not in names:
        then = f"expected {','.join(COLUMNS)}, an export of a provider, or --mapping"
        raise header.without_address("`address`", then)
    header.check_once(COLUMNS.__contains__)
    if others := [column for column in header.columns if column_key(column) not in ("", *COLUMNS)]:
        notices.append(f"columns that are not read: {', '.join(others)[:200]}")
    places = [names.index(name) if name in names else None for name in COLUMNS]

    def entry(row: Row) -> SuppressionEntry:
        cells = row.cells
        certain(cells[names.index("address")], row)
        texts = ["" if place is None else said(cells[place]) for place in places]
        return defaults.entry(texts[0], texts[1], texts[2], texts[3], texts[4], ISO)

    rows = read_rows(lines, header)
    above = rejected_header(header) or None
    return Contents(converted(rows, entry), above, tuple(notices), lines.decoder)


def read_ndjson(
    lines: Lines, defaults: Defaults, wanted: Wanted | None = None
) -> Contents[SuppressionEntry]:
    """Read one JSON object a line, in our own form or in that of a provider's API.

    A provider's objects may also be spread over lines, as its command line prints them.

    Raises:
        ImportFault: the first object fits several exports, or not the one wanted.
    """
    wanted = wanted or Wanted()
    objects = one_object_a_line(lines)
    first = next(objects, None)
    if first is None:
        return Contents(iter(()))
    objects = chain([first], objects)
    keys = keys_of(first.content) if isinstance(first, Line) else ()
    if wanted.layout or not (wanted.own or _is_own([key.casefold() for key in keys])):
        layout = _recognised(keys, defaults, wanted) if keys else None
        if layout is not None:
            entry = _json_entry(_Reader(layout.mapping, defaults, layout))
            notices = _notices(layout, defaults)
            return Contents(converted(objects, entry), None, notices, lines.decoder)
    _check_no_purpose(defaults)
    items = converted(objects, lambda line: read_record(line.content, defaults))
    return Contents(items, decoder=lines.decoder)


def _check_no_purpose(defaults: Defaults) -> None:
    if defaults.purpose:
        raise ImportFault(
            "--purpose is for exports of providers; here a line's scope says it, or for lines "
            f"without one --scope purpose:{defaults.purpose}"
        )


def _is_own(names: Iterable[str]) -> bool:
    """Whether these are our own columns: a bare `address` may be anybody's, but needs no other."""
    there = set(names)
    return "address" in there and (bool(there & _OUR_COLUMNS) or len(there) == 1)


def _recognised(columns: tuple[str, ...], defaults: Defaults, wanted: Wanted) -> Layout | None:
    layout = recognise(
        columns,
        "suppressions",
        file_name=wanted.file_name,
        name=wanted.layout,
        origin=defaults.origin,
    )
    if layout is None and (contacts := _contacts_of(columns)):
        raise ImportFault(
            f"it is an export of contacts ({contacts}) that says nothing of suppressions; "
            "use contact import"
        )
    return layout


def _contacts_of(columns: tuple[str, ...]) -> str:
    """Return the layouts of contacts with these columns, if any."""
    return ", ".join(one.name for one in layouts("contacts") if one.fits(columns))


def _mapped(
    lines: Lines,
    header: Header,
    mapping: Mapping,
    defaults: Defaults,
    layout: Layout | None = None,
) -> Contents[SuppressionEntry]:
    columns = [column_key(column) for column in header.columns]
    address = header.places(mapping.columns).get("address")
    if address is None:
        wanting = next(column for column, name in mapping.columns.items() if name == "address")
        raise header.without_address(repr(wanting), "the mapping says which is which field")
    whens = layout.when if layout else ()
    header.check_once({column for when in whens for column in when.columns}.__contains__)
    reader = _Reader(mapping, defaults, layout)

    names = {
        name: f'"{column}" ({name})'
        for column in header.columns
        if (name := mapping.columns.get(column_key(column))) and name != column
    }

    def entry(row: Row) -> SuppressionEntry | None:
        certain(row.cells[address], row)
        try:
            return reader.entry(dict(zip(columns, row.cells, strict=False)))
        except ValueError as error:
            name, _, wrong = str(error).partition(": ")
            if name not in names:
                raise
            raise ValueError(f"{names[name]}: {wrong}") from None

    unread = [
        column
        for column in header.columns
        if column_key(column) not in ("", *mapping.columns) and layout is None
    ]
    notices = _notices(layout, defaults) if layout else ()
    if unread:
        notices = (*notices, f"columns that are not read: {', '.join(unread)[:200]}")
    above = rejected_header(header, in_named_encoding=mapping.encoding is not None)
    rows = read_rows(lines, header)
    return Contents(converted(rows, entry), above, notices, lines.decoder)


def _notices(layout: Layout, defaults: Defaults) -> tuple[str, ...]:
    notices = [f"taken as an export of {layout.title} ({layout.name})"]
    by_list = layout.of_list or "list" in layout.mapping.columns.values()
    if defaults.purpose and not by_list:
        raise ImportFault(
            f"{layout.name} holds for all mail of the sender, and --purpose would narrow it; "
            "leave --purpose out"
        )
    if by_list and not defaults.purpose and not defaults.scope:
        notices.append(
            "unsubscribes from one list count for all marketing; say with --purpose what the "
            "list is about"
        )
    return tuple(notices)


class _Reader:
    """Turns the cells of a row into an entry, by a mapping and, of a provider, its layout."""

    def __init__(self, mapping: Mapping, defaults: Defaults, layout: Layout | None = None) -> None:
        self._defaults = defaults
        self._columns = tuple(mapping.columns.items())
        self._constants = dict(mapping.constants)
        self._values = {
            name: {text.casefold(): value for text, value in values.items()}
            for name, values in mapping.values.items()
        }
        # A list's name may be its purpose's, so it is not replaced but looked up.
        self._purposes = self._values.pop("list", {})
        self._notation = mapping.notation
        self._of_provider = layout is not None
        self._of_list = layout is not None and layout.of_list
        self._when: tuple[When, ...] = layout.when if layout else ()

    def entry(self, cells: dict[str, str]) -> SuppressionEntry | None:
        """Return what the row says; None when it is of no suppression.

        `cells` are by column in lower case. Raises ValueError as `Defaults.entry`.
        """
        told = dict(self._constants)
        for column, name in self._columns:
            if text := cells.get(column, "").strip():
                values = self._values.get(name)
                text = values.get(text.casefold(), text) if values else text
                if text := said(text):
                    told[name] = text
        for when in self._when:
            if all(cells.get(c, "").strip().casefold() == text for c, text in when.columns.items()):
                told.update(when.constants)
        origin = told.get("origin") or self._defaults.origin
        if origin == NO_SUPPRESSION:
            return None
        address = told.get("address", "")
        scope = told.get("scope") or self._scope(read_origin(origin), told.get("list", ""))
        if self._of_provider and is_whole_domain(address) and origin not in DOMAIN_ORIGINS:
            origin = Origin.EXTERNAL  # in a list of bounces it is still an order of the provider's
        return self._defaults.entry(
            address,
            scope,
            origin,
            told.get("since", ""),
            told.get("note", ""),
            self._notation,
        )

    def _scope(self, origin: Origin, list_name: str) -> str:
        if self._defaults.scope:
            return self._defaults.scope
        name = list_name.strip("[]'\" ")
        if origin not in _OF_PURPOSE or not (self._of_list or name not in _EVERY_LIST):
            return SCOPES[origin]
        known = self._purposes.get(list_name.casefold())
        purpose = known or self._defaults.purpose
        return f"purpose:{purpose}" if purpose else SCOPES[origin]


def _json_entry(reader: _Reader) -> Callable[[Line], SuppressionEntry | None]:
    decode = msgspec.json.Decoder(dict[str, str | int | float | bool | None]).decode

    def entry(line: Line) -> SuppressionEntry | None:
        try:
            fields = decode(line.content)
        except UnicodeDecodeError:
            decoded(line.content)  # it says where in the line
            raise
        except msgspec.MsgspecError as error:
            raise ValueError(f"not a JSON object of plain values: {error}") from None
        return reader.entry(
            {
                key.casefold(): str(value).lower() if isinstance(value, bool) else str(value)
                for key, value in fields.items()
                if value is not None
            }
        )

    return entry
