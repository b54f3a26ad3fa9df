"""Mapping files, which map the columns of a table to fields (docs/data.md)."""

from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Annotated, Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy import toml
from smtpproxy.store.exchange.consent_columns import FLAGS, ConsentTable, Flags, flags_of
from smtpproxy.store.exchange.encodings import encoding_named
from smtpproxy.store.exchange.lines import ImportFault
from smtpproxy.store.exchange.rows import column_key
from smtpproxy.store.exchange.times import ISO, Notation
from smtpproxy.toml import shown
from smtpproxy.toml_tables import Key, Location, Written, read_table, report

T = TypeVar("T")

FIELDS = (
    "address",
    "audience",
    "source",
    "collected_at",
    "informed_at",
    "optout_offered",
    "last_activity_at",
    "occupations",
    "tags",
    "supplier",
    "sender_disclosed",
    "purchase_product",
    "purchase_at",
    "consent_purpose",
    "consent_method",
    "consent_given_at",
    "consent_withdrawn_at",
    "consent_conditional",
    "consent_channels",
    "consent_wording",
    "consent_ip",
    "consent_pending",
    "consent_version",
    "consent_form",
    "consent_document_hash",
    "purchase_kind",
    "first_contacted_at",
    "profiling_objected_at",
    "language",
    "brand",
)
"""The fields of contacts. A row holds at most one purchase and one consent."""

SUPPRESSION_FIELDS = ("address", "scope", "origin", "since", "note", "list", "brand")
"""The fields of suppressions; `list` is the list that the person unsubscribed from."""

_REPLACED: MappingOf[Location, str] = {
    (other,): f"unknown key; it is called {key}"
    for other, key in (
        ("charset", "encoding"),
        ("date_format", "time_format"),
        ("datetime_format", "time_format"),
        ("timezone", "time_zone"),
        ("sep", "delimiter"),
    )
}


class MappingFault(ImportFault):
    """The mapping file is wrong; the text names the key."""


class Mapping(Struct, frozen=True):
    columns: MappingOf[str, str]  # column, by its key, to field
    constants: MappingOf[str, str] = {}  # field to text
    values: MappingOf[str, MappingOf[str, str]] = {}  # by field
    delimiter: str | None = None  # None: detected from the header
    separator: str = "|"  # between the words of one cell
    notation: Notation = ISO  # of times
    encoding: str | None = None  # None: detected
    flags: Flags = FLAGS
    consents: tuple[ConsentTable, ...] = ()

    @property
    def columns_read(self) -> frozenset[str]:
        """The keys of all columns that are read."""
        return frozenset(self.columns).union(
            column_key(column) for table in self.consents for column in table.columns
        )

    def with_constants(self, constants: MappingOf[str, str]) -> "Mapping":
        """Replace its constants with those of a command."""
        return replace(
            self,
            constants={**self.constants, **constants},
            consents=tuple(table.with_constants(constants) for table in self.consents),
        )


PLAIN = Mapping({name: name for name in FIELDS})
"""The mapping without a mapping file: columns have the names of the fields."""


def zone(name: object) -> tzinfo:
    try:
        return UTC if name == "UTC" else ZoneInfo(name)  # type: ignore[arg-type]
    except (ValueError, TypeError, OSError, ZoneInfoNotFoundError):
        raise ValueError(
            f'there is no {shown(name)}; use a name of the tz database, like "Europe/Paris"'
        ) from None


def _encoding(name: object) -> str:
    if not isinstance(name, str) or (found := encoding_named(name)) is None:
        raise ValueError(
            f"{shown(name)} is not an encoding; write one like cp1252 (Excel in Western Europe), "
            "iso-8859-15, utf-8, utf-16"
        )
    return found


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be text")
    return value


def _character(value: object) -> str:
    if not isinstance(value, str) or len(value) != 1:
        raise ValueError('must be one character, like ";"')
    return value


class MappingFile(Struct, frozen=True):
    """A mapping as written."""

    columns: MappingOf[str, str] = {}
    constants: MappingOf[str, str] = {}
    values: MappingOf[str, MappingOf[str, str]] = {}
    encoding: Annotated[str | None, Written(_encoding)] = None
    delimiter: Annotated[str | None, Written(_character)] = None
    separator: Annotated[str, Written(_text)] = "|"
    time_format: Annotated[str | None, Written(_text)] = None
    time_zone: Annotated[tzinfo | None, Written(zone)] = None
    yes: Annotated[tuple[str, ...] | None, Key("true")] = None
    false: tuple[str, ...] | None = None
    consent: tuple[ConsentTable, ...] = ()


def read_mapping(path: Path, fields: Sequence[str] = FIELDS) -> Mapping:
    """Read and check a mapping file onto `fields`. Raises MappingFault: `FILE: key: what is wrong
    and what is expected`, on a line for each."""
    try:
        document = toml.read(path)
    except toml.TomlError as error:
        raise MappingFault(f"{path}: {error}") from None
    return mapping_of(str(path), document, fields)


def mapping_of(path: str, document: dict[str, Any], fields: Sequence[str]) -> Mapping:
    """Check the contents of a mapping file. `path` names it in faults. Raises MappingFault."""
    return of_file(path, checked(path, document, MappingFile), fields)


def checked(path: str, document: dict[str, Any], record: type[T]) -> T:
    """Return the document as `record`. Raises MappingFault."""
    found, faults = read_table(record, document, _REPLACED)
    if found is None:
        raise MappingFault("\n".join(report(path, document, faults)))
    return found


def of_file(path: str, file: MappingFile, fields: Sequence[str]) -> Mapping:
    """Return the mapping in a file, onto `fields`. Raises MappingFault."""
    columns, named = file.columns, file.columns.values()
    for key, names in (("columns", named), ("constants", file.constants), ("values", file.values)):
        if unknown := sorted(set(names) - set(fields)):
            raise MappingFault(
                f"{path}: {key}: no field {unknown[0]!r}; they are {', '.join(fields)}"
            )
    twice = sorted({name for name in named if list(named).count(name) > 1})
    if twice:
        raise MappingFault(f"{path}: columns: {twice[0]} has several columns; leave one")
    if "address" not in named:
        raise MappingFault(f'{path}: columns: no address; add "COLUMN" = "address"')
    flags = _checked_consents(path, file, fields)
    return Mapping(
        {column_key(column): name for column, name in columns.items()},
        file.constants,
        file.values,
        file.delimiter,
        file.separator,
        Notation(file.time_format, file.time_zone),
        file.encoding,
        flags,
        file.consent,
    )


def _checked_consents(path: str, file: MappingFile, fields: Sequence[str]) -> Flags:
    """Return the flags of a mapping; check those and the dates of its consents."""
    where = "true, false"
    try:
        flags = flags_of(file.yes, file.false)
        for table in file.consent:
            where = f'consent "{table.purpose}"'
            flags_of(table.yes, table.false, table.nothing, flags)
            table.check(is_dated="consent_given_at" in file.constants)
    except ValueError as error:
        raise MappingFault(f"{path}: {where}: {error}") from None
    if not file.consent:
        return flags
    if "consent_purpose" not in fields:
        raise MappingFault(f"{path}: consent: is for contacts, but this file maps suppressions")
    fixed = {"consent_purpose", "consent_given_at", "consent_withdrawn_at"}
    if twice := sorted(fixed & {*file.columns.values()} | {"consent_purpose"} & {*file.constants}):
        raise MappingFault(f"{path}: {twice[0]}: is in a [[consent]] already; leave it out here")
    return flags
