"""One layout of an export: how it is recognised, and what its columns mean."""

from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field, replace
from datetime import UTC, tzinfo
from typing import Annotated, Literal

from smtpproxy import toml
from smtpproxy.policy.model import Origin
from smtpproxy.store.exchange.csv_rows import column_key
from smtpproxy.store.exchange.mapping import (
    FIELDS,
    SUPPRESSION_FIELDS,
    Mapping,
    MappingFault,
    MappingFile,
    checked,
    of_file,
    zone,
)
from smtpproxy.toml_tables import AT_LEAST_ONE, Key, Written

Kind = Literal["suppressions", "contacts"]

NO_SUPPRESSION = "none"
"""The origin of a row that is of no suppression, such as a subscriber in a mixed export."""

_FIELDS: dict[Kind, tuple[str, ...]] = {"suppressions": SUPPRESSION_FIELDS, "contacts": FIELDS}


@dataclass(frozen=True, slots=True)
class When:
    """What holds for rows with these cells, instead of what their columns say."""

    columns: MappingOf[str, str]  # their cells, both without regard to case
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _LayoutTable(MappingFile):
    """A layout as it is written: a mapping, and what it is recognised by."""

    name: str
    header: Annotated[tuple[str, ...], AT_LEAST_ONE, Key(example=("email",))]
    optional: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    open: bool = False
    hints: tuple[str, ...] = ()
    no_hints: tuple[str, ...] = ()
    of_list: bool = False
    when: tuple[When, ...] = ()
    passed_over: MappingOf[str, tuple[str, ...]] = field(default_factory=dict)
    # Times of providers that name no zone are UTC.
    time_zone: Annotated[tzinfo | None, Written(zone)] = UTC


@dataclass(frozen=True, slots=True)
class _LayoutFile:
    provider: str
    title: str
    source: str
    confirmed: Literal["documentation", "api", "others", "nothing"]
    also: MappingOf[str, str] = field(default_factory=dict)
    suppressions: tuple[_LayoutTable, ...] = ()
    contacts: tuple[_LayoutTable, ...] = ()


def read_layouts(provider: str, text: str) -> list[Layout]:
    """Read and check the layouts of one provider.

    Raises:
        MappingFault: `PROVIDER.toml: key: what is wrong and what would be right`.
    """
    path = f"{provider}.toml"
    try:
        file = checked(path, toml.loads(text), _LayoutFile)
    except toml.TomlError as error:
        raise MappingFault(f"{path}: {error}") from None
    if file.provider != provider:
        raise MappingFault(f"{path}: provider: must be {provider!r}, as the file is called")
    return [
        *(_layout(path, file, "suppressions", table) for table in file.suppressions),
        *(_layout(path, file, "contacts", table) for table in file.contacts),
    ]


def _layout(path: str, file: _LayoutFile, kind: Kind, table: _LayoutTable) -> Layout:
    if not table.name.startswith(f"{file.provider}-"):
        raise MappingFault(f"{path}: {kind}.name: must be text like {file.provider}-bounces")
    where = f"{path}: {table.name}"
    mapping = of_file(where, table, _FIELDS[kind])
    also = {column_key(one): column_key(name) for one, name in file.also.items()}
    called = {one: mapping.columns[name] for one, name in also.items() if name in mapping.columns}
    mapping = replace(mapping, columns={**mapping.columns, **called})
    whens = tuple(
        When({name.casefold(): cell.casefold() for name, cell in w.columns.items()}, w.constants)
        for w in table.when
    )
    _check_origins(where, kind, mapping, whens)
    return Layout(
        table.name,
        file.provider,
        file.title,
        file.confirmed,
        kind,
        table.header,
        mapping,
        frozenset(column.casefold() for column in table.optional),
        frozenset(column.casefold() for column in table.absent),
        table.open,
        table.hints,
        table.no_hints,
        table.of_list,
        whens,
        {
            column.casefold(): frozenset(cell.casefold() for cell in cells)
            for column, cells in table.passed_over.items()
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
