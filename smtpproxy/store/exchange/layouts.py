"""The layouts of mail providers' exports, as data with its sources.

`providers/NAME.toml` holds the layouts of one provider: the columns that a file is recognised by,
and the keys of a mapping file (`exchange.mapping`). `confirmed` names the source for the columns:
the provider's `documentation` (or source code), its `api`, programs of `others`, or `nothing` but
general knowledge.
"""

from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from datetime import UTC, tzinfo
from functools import cache
from importlib import resources
from pathlib import PurePath
from typing import Annotated, Literal

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy import toml
from smtpproxy.store.exchange.lines import ImportFault
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
from smtpproxy.store.exchange.rows import column_key
from smtpproxy.toml_tables import AT_LEAST_ONE, Key, Written

Kind = Literal["suppressions", "contacts"]

NO_SUPPRESSION = "none"
"""The origin of a row that is not a suppression, such as a subscriber in a mixed export."""

_FIELDS: dict[Kind, tuple[str, ...]] = {"suppressions": SUPPRESSION_FIELDS, "contacts": FIELDS}


class Wanted(Struct, frozen=True):
    """How to read a file: as it is recognised, unless one of these is given."""

    file_name: str = ""
    layout: str | None = None  # a layout or a provider
    mapping: Mapping | None = None  # of suppressions
    own: bool = False  # in our own form, whatever it looks like
    purpose: str = ""  # of the consents in a provider's export
    constants: MappingOf[str, str] = {}  # field to text; override others


class When(Struct, frozen=True):
    """Constants for rows with these cells, overriding their columns."""

    columns: MappingOf[str, str]  # column to cell, both ignoring case
    constants: MappingOf[str, str]


class Layout(Struct, frozen=True):
    name: str
    provider: str
    title: str
    kind: Kind
    header: tuple[str, ...]  # columns that must be there
    mapping: Mapping
    optional: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    open: bool = False  # other columns are allowed
    hints: tuple[str, ...] = ()  # parts of a file's name
    no_hints: tuple[str, ...] = ()  # parts of a file's name that rule it out
    of_list: bool = False  # its unsubscribes are from one list, group or stream
    when: tuple[When, ...] = ()
    also: MappingOf[str, str] = {}  # other names of columns, by key
    blocked: MappingOf[str, MappingOf[str, str]] = {}
    """By column key, the origins that cells stand for, in columns that say who is suppressed."""

    @property
    def notice(self) -> str:
        return f"taken as an export of {self.title} ({self.name})"

    def fits(self, columns: tuple[str, ...], *, is_named: bool = False) -> bool:
        """Whether a file with these columns is such an export. `is_named`: the user says so; then
        columns that are new in it do not matter."""
        keys = [column_key(column) for column in columns if column]
        found = {self.also.get(key, key) for key in keys}
        required = self._required()
        if not required <= found or self.absent & found:
            return False
        return self.open or is_named or found <= required | self.optional

    def is_hinted(self, file_name: str) -> bool:
        """Whether the file's name, in lower case, suggests this layout."""
        return any(hint in file_name for hint in self.hints) and not any(
            hint in file_name for hint in self.no_hints
        )

    def may_be(self, origin: str) -> bool:
        """Whether its rows may have that origin; an empty one means any."""
        fixed = self.mapping.constants.get("origin")
        return origin in ("", fixed) or fixed is None or "origin" in self.mapping.columns.values()

    @property
    def has_consents(self) -> bool:
        return "consent_given_at" in self.mapping.columns.values()

    def blocked_columns(self, columns: Sequence[str]) -> "Blocked":
        return [
            (place, column, cells)
            for place, column in enumerate(columns)
            if (cells := self.blocked.get(column_key(column)))
        ]

    def says_less_than(self, other: "Layout") -> bool:
        return self._required() < other._required()

    def _required(self) -> frozenset[str]:
        return frozenset(column.casefold() for column in self.header)


def origin_in(cell: str, known: MappingOf[str, str]) -> str | None:
    """Return the origin that a cell stands for; None: it is unknown.

    Of several words, `[one|other]`, one that is a suppression is enough.
    """
    text = cell.strip().casefold()
    if text in known:
        return known[text]
    found = [known.get(word.strip()) for word in text.strip("[]").split("|")]
    suppressed = next((each for each in found if each not in (None, NO_SUPPRESSION)), None)
    return suppressed or (None if None in found else NO_SUPPRESSION)


Blocked = list[tuple[int, str, MappingOf[str, str]]]
"""The places and names of columns that say who may not be mailed, and their cells."""


def is_blocked(columns: Blocked, cells: Sequence[str]) -> bool:
    """Whether a row is of somebody who may not be mailed. Raises ValueError if it is unclear."""
    found = False
    for place, column, known in columns:
        cell = cells[place].strip()
        if (origin := origin_in(cell, known)) is None:
            right = ", ".join(filter(None, known))
            raise ValueError(f'"{column}": {cell[:40]!r} is unknown; expected {right}')
        found |= origin != NO_SUPPRESSION
    return found


class _LayoutTable(MappingFile, frozen=True, kw_only=True):
    """A layout as written: a mapping, and how to recognise the file."""

    name: str
    header: Annotated[tuple[str, ...], AT_LEAST_ONE, Key(example=("email",))]
    optional: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    open: bool = False
    hints: tuple[str, ...] = ()
    no_hints: tuple[str, ...] = ()
    of_list: bool = False
    when: tuple[When, ...] = ()
    blocked_in: str = ""  # of contacts: the layout that reads the same file's suppressions
    # Providers' times without a zone are UTC.
    time_zone: Annotated[tzinfo | None, Written(zone)] = UTC


class _LayoutFile(Struct, frozen=True):
    provider: str
    title: str
    source: str
    confirmed: Literal["documentation", "api", "others", "nothing"]
    also: MappingOf[str, str] = {}
    suppressions: tuple[_LayoutTable, ...] = ()
    contacts: tuple[_LayoutTable, ...] = ()


def read_layouts(provider: str, text: str) -> list[Layout]:
    """Read and check the layouts of one provider. Raises MappingFault."""
    path = f"{provider}.toml"
    try:
        file = checked(path, toml.loads(text), _LayoutFile)
    except toml.TomlError as error:
        raise MappingFault(f"{path}: {error}") from None
    return [
        *(_layout(path, file, "suppressions", table) for table in file.suppressions),
        *(_layout(path, file, "contacts", table) for table in file.contacts),
    ]


def _layout(path: str, file: _LayoutFile, kind: Kind, table: _LayoutTable) -> Layout:
    mapping = of_file(f"{path}: {table.name}", table, _FIELDS[kind])
    also = {column_key(one): column_key(name) for one, name in file.also.items()}
    called = {one: mapping.columns[name] for one, name in also.items() if name in mapping.columns}
    mapping = replace(mapping, columns={**mapping.columns, **called})
    whens = tuple(
        When({name.casefold(): cell.casefold() for name, cell in w.columns.items()}, w.constants)
        for w in table.when
    )
    return Layout(
        table.name,
        file.provider,
        file.title,
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
        also,
        _blocked(file, table, also),
    )


def _blocked(
    file: _LayoutFile, table: _LayoutTable, also: MappingOf[str, str]
) -> dict[str, dict[str, str]]:
    """Return the origins of `table.blocked_in`, by column key and cell."""
    if not table.blocked_in:
        return {}
    other = next(one for one in file.suppressions if one.name == table.blocked_in)
    cells = {cell.casefold(): name for cell, name in other.values["origin"].items()}
    if other.constants.get("origin") == NO_SUPPRESSION:
        cells[""] = NO_SUPPRESSION
    keys = [column_key(column) for column, name in other.columns.items() if name == "origin"]
    return {key: cells for one in keys for key in (one, *(k for k, n in also.items() if n == one))}


PROVIDERS = (
    "sendgrid",
    "ses",
    "mailgun",
    "postmark",
    "mailchimp",
    "mailjet",
    "brevo",
    "listmonk",
)


@cache
def layouts(kind: Kind) -> tuple[Layout, ...]:
    """Return every layout of `kind`, by provider."""
    folder = resources.files("smtpproxy.store.exchange").joinpath("providers")
    return tuple(
        layout
        for name in PROVIDERS
        for layout in read_layouts(name, folder.joinpath(f"{name}.toml").read_text("utf-8"))
        if layout.kind == kind
    )


@cache
def known_columns(kind: Kind) -> frozenset[str]:
    """Return the keys of all columns that exports of `kind` are recognised by."""
    return frozenset(
        column_key(name) for layout in layouts(kind) for name in (*layout.header, *layout.also)
    )


def without_consents(columns: tuple[str, ...], file_name: str) -> Layout | None:
    """Return the layout of people who agreed to nothing, if only the file's name tells them from
    others who did, with the same columns."""
    fitting = [one for one in layouts("contacts") if one.fits(columns)]
    if not any(one.has_consents for one in fitting):
        return None
    lowered = file_name.casefold()
    return next((one for one in fitting if one.is_hinted(lowered) and not one.has_consents), None)


_OF_OTHERS: dict[Kind, str] = {
    "contacts": "it is an export of suppressions ({}); use suppress import, or --format csv if it "
    "is one of contacts",
    "suppressions": "it is an export of contacts ({}) without suppressions; use contact import",
}


def recognised(
    columns: tuple[str, ...], kind: Kind, wanted: Wanted, *, origin: str = ""
) -> Layout | None:
    """Return the one layout that a file with these columns has, or None.

    The most specific header wins, then the hints in the file's name; `origin` excludes layouts
    whose rows all have another one. Raises ImportFault if several fit, if none of those `wanted`
    does, or if one of the other kind does: suppressions must not be imported as people to mail.
    """
    name = wanted.layout
    candidates = [one for one in layouts(kind) if not name or name in (one.name, one.provider)]
    found = [one for one in candidates if one.fits(columns, is_named=one.name == name)]
    found = [one for one in found if one.may_be(origin)]
    found = [one for one in found if not any(one.says_less_than(other) for other in found)]
    if len(found) > 1:
        lowered = PurePath(wanted.file_name).name.casefold()
        hinted = [one for one in found if one.is_hinted(lowered)]
        found = hinted if len(hinted) == 1 else found
    if len(found) > 1:
        raise ImportFault(
            f"the header fits several exports: {', '.join(one.name for one in found)}; "
            "choose one with --format"
        )
    if found:
        return found[0]
    if name:
        right = "; ".join(f"{one.name} has {', '.join(one.header)}" for one in candidates)
        raise ImportFault(f"the header does not have the columns of {name}: {right}"[:400])
    other: Kind = "suppressions" if kind == "contacts" else "contacts"
    if fitting := [one.name for one in layouts(other) if one.fits(columns)]:
        raise ImportFault(_OF_OTHERS[kind].format(", ".join(fitting)))
    return None
