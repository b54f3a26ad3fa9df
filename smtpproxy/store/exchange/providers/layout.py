"""One layout of an export: how it is recognised, and what its columns mean."""

import tomllib
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from smtpproxy.policy.model import Origin
from smtpproxy.store.exchange.csv_rows import column_key
from smtpproxy.store.exchange.mapping import (
    FIELDS,
    SUPPRESSION_FIELDS,
    Mapping,
    MappingFault,
    mapping_of,
)

Kind = Literal["suppressions", "contacts"]

NO_SUPPRESSION = "none"
"""The origin of a row that is of no suppression, such as a subscriber in a mixed export."""

_CONFIRMED = frozenset({"documentation", "api", "others", "nothing"})
_HEAD = frozenset({"provider", "title", "source", "confirmed", "also", "suppressions", "contacts"})
_OWN = frozenset(
    {
        "name",
        "header",
        "optional",
        "absent",
        "open",
        "hints",
        "no_hints",
        "of_list",
        "when",
        "passed_over",
    }
)
_FIELDS: dict[Kind, tuple[str, ...]] = {"suppressions": SUPPRESSION_FIELDS, "contacts": FIELDS}


@dataclass(frozen=True, slots=True)
class When:
    """What holds for rows with these cells, instead of what their columns say."""

    cells: MappingOf[str, str]  # by column, both without regard to case
    constants: MappingOf[str, str]


@dataclass(frozen=True, slots=True)
class Layout:
    name: str
    provider: str
    title: str
    confirmed: str
    kind: Kind
    header: tuple[str, ...]  # columns that must be there
    mapping: Mapping
    optional: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    open: bool = False  # others may stand beside them
    hints: tuple[str, ...] = ()  # parts of a file's name
    no_hints: tuple[str, ...] = ()  # parts of the name of a file that is another
    of_list: bool = False  # its unsubscribes are from one list, group or stream
    when: tuple[When, ...] = ()
    passed_over: MappingOf[str, frozenset[str]] = field(default_factory=dict)
    also: MappingOf[str, str] = field(default_factory=dict)  # other names of columns, by key

    def fits(self, columns: tuple[str, ...]) -> bool:
        keys = [column_key(column) for column in columns if column]
        there = {self.also.get(key, key) for key in keys}
        required = self._required()
        if not required <= there or self.absent & there:
            return False
        return self.open or there <= required | self.optional

    def is_hinted(self, file_name: str) -> bool:
        """Whether the file's name, in lower case, says that it is this one."""
        return any(hint in file_name for hint in self.hints) and not any(
            hint in file_name for hint in self.no_hints
        )

    def may_be(self, origin: str) -> bool:
        """Whether its rows may be of that origin; the empty one is any."""
        fixed = self.mapping.constants.get("origin")
        return not origin or fixed is None or fixed == origin

    def says_less_than(self, other: "Layout") -> bool:
        return self._required() < other._required()

    def _required(self) -> frozenset[str]:
        return frozenset(column.casefold() for column in self.header)


def read_layouts(provider: str, text: str) -> list[Layout]:
    """Read and check the layouts of one provider.

    Raises:
        MappingFault: `PROVIDER.toml: key: what is wrong and what would be right`.
    """
    path = f"{provider}.toml"
    try:
        document = tomllib.loads(text)
    except ValueError as error:
        raise MappingFault(f"{path}: cannot be read as TOML: {error}") from None
    if unknown := sorted(set(document) - _HEAD):
        raise MappingFault(f"{path}: {unknown[0]}: unknown key; known are {sorted(_HEAD)}")
    for key in ("title", "source"):
        if not isinstance(document.get(key), str):
            raise MappingFault(f"{path}: {key}: must be text")
    if document.get("provider") != provider:
        raise MappingFault(f"{path}: provider: must be {provider!r}, as the file is called")
    if document.get("confirmed") not in _CONFIRMED:
        raise MappingFault(f"{path}: confirmed: must be one of {', '.join(sorted(_CONFIRMED))}")
    kinds: tuple[Kind, ...] = ("suppressions", "contacts")
    return [
        _layout(path, document, kind, table) for kind in kinds for table in document.get(kind, [])
    ]


def _layout(path: str, document: dict[str, Any], kind: Kind, table: dict[str, Any]) -> Layout:
    name = table.get("name")
    if not isinstance(name, str) or not name.startswith(f"{document['provider']}-"):
        raise MappingFault(f"{path}: {kind}.name: must be text like {document['provider']}-bounces")
    where = f"{path}: {name}"
    rest = {key: value for key, value in table.items() if key not in _OWN}
    # Times of providers that name no zone are UTC.
    mapping = mapping_of(where, {"time_zone": "UTC", **rest}, _FIELDS[kind])
    also = {column_key(one): column_key(name) for one, name in document.get("also", {}).items()}
    called = {one: mapping.columns[name] for one, name in also.items() if name in mapping.columns}
    mapping = replace(mapping, columns={**mapping.columns, **called})
    header = _texts(where, table, "header")
    if not header:
        raise MappingFault(f"{where}: header: must name the columns it is recognised by")
    whens = tuple(
        When(
            {column.casefold(): cell.casefold() for column, cell in when["columns"].items()},
            when["constants"],
        )
        for when in table.get("when", [])
    )
    _check_origins(where, kind, mapping, whens)
    return Layout(
        name,
        document["provider"],
        document["title"],
        document["confirmed"],
        kind,
        header,
        mapping,
        frozenset(column.casefold() for column in _texts(where, table, "optional")),
        frozenset(column.casefold() for column in _texts(where, table, "absent")),
        bool(table.get("open", False)),
        _texts(where, table, "hints"),
        _texts(where, table, "no_hints"),
        bool(table.get("of_list", False)),
        whens,
        {
            column.casefold(): frozenset(cell.casefold() for cell in cells)
            for column, cells in table.get("passed_over", {}).items()
        },
        also,
    )


def _check_origins(where: str, kind: Kind, mapping: Mapping, whens: tuple[When, ...]) -> None:
    if kind != "suppressions":
        return
    told = [mapping.constants, *[when.constants for when in whens]]
    origins = {constants["origin"] for constants in told if "origin" in constants}
    origins |= set(mapping.values.get("origin", {}).values())
    right = {*map(str, Origin), NO_SUPPRESSION}
    if not origins or not origins <= right:
        raise MappingFault(f"{where}: origin: must be of {', '.join(sorted(right))}")


def _texts(where: str, table: dict[str, Any], key: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise MappingFault(f"{where}: {key}: must be a list of texts")
    return tuple(value)
