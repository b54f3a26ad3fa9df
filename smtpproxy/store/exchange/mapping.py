"""The mapping file of a CSV: which column is which field (docs/data.md)."""

import tomllib
from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from smtpproxy.store.exchange.csv_rows import column_key
from smtpproxy.store.exchange.encoding import encoding_named
from smtpproxy.store.exchange.lines import ImportFault
from smtpproxy.store.exchange.times import ISO, Notation

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
)
"""What a column may be. A row holds at most one purchase and one consent."""

SUPPRESSION_FIELDS = ("address", "scope", "origin", "since", "note", "list")
"""What a column of suppressions may be; `list` names what the person unsubscribed from."""

_KEYS = (
    "columns",
    "constants",
    "values",
    "encoding",
    "delimiter",
    "separator",
    "time_format",
    "time_zone",
)
_ALSO_CALLED = {
    "charset": "encoding",
    "date_format": "time_format",
    "datetime_format": "time_format",
    "timezone": "time_zone",
    "sep": "delimiter",
}


class MappingFault(ImportFault):
    """The mapping file is wrong; the text names the key."""


@dataclass(frozen=True, slots=True)
class Mapping:
    columns: MappingOf[str, str]  # column, by its key, to field
    constants: MappingOf[str, str] = field(default_factory=dict)  # field to text
    values: MappingOf[str, MappingOf[str, str]] = field(default_factory=dict)  # by field
    delimiter: str | None = None  # None: the commonest in the header
    separator: str = "|"  # between the words of one cell
    notation: Notation = ISO  # of times
    encoding: str | None = None  # None: found out


PLAIN = Mapping({name: name for name in FIELDS})
"""Without a mapping file the columns have the names of the fields."""


def read_mapping(path: Path, fields: Sequence[str] = FIELDS) -> Mapping:
    """Read and check a mapping file onto `fields`.

    Raises:
        MappingFault: `FILE: key: what is wrong and what would be right`.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise MappingFault(f"{path}: cannot be read as TOML: {error}") from None
    return mapping_of(str(path), document, fields)


def mapping_of(path: str, document: dict[str, Any], fields: Sequence[str]) -> Mapping:
    """Check what a mapping file says. `path` is how faults name it.

    Raises:
        MappingFault: as `read_mapping`.
    """
    if unknown := sorted(set(document) - set(_KEYS)):
        right = f"known are {', '.join(_KEYS)}"
        if meant := _ALSO_CALLED.get(unknown[0]):
            right = f"{meant} says it"
        raise MappingFault(f"{path}: {unknown[0]}: unknown key; {right}")
    columns = _table(path, "columns", document.get("columns", {}))
    constants = _table(path, "constants", document.get("constants", {}))
    values = document.get("values", {})
    if not isinstance(values, dict):
        raise MappingFault(f"{path}: values: must be tables like [values.audience]")
    for key, names in (("columns", columns.values()), ("constants", constants), ("values", values)):
        if unknown := sorted(set(names) - set(fields)):
            raise MappingFault(
                f"{path}: {key}: no field {unknown[0]!r}; they are {', '.join(fields)}"
            )
    twice = sorted({name for name in columns.values() if list(columns.values()).count(name) > 1})
    if twice:
        raise MappingFault(f"{path}: columns: {twice[0]} has several columns; leave one")
    if "address" not in columns.values():
        raise MappingFault(f'{path}: columns: none is the address; add "COLUMN" = "address"')
    return Mapping(
        {column_key(column): name for column, name in columns.items()},
        constants,
        {name: _table(path, f"values.{name}", table) for name, table in values.items()},
        _text(path, document, "delimiter", single=True),
        _text(path, document, "separator") or "|",
        Notation(_text(path, document, "time_format"), _zone(path, document)),
        _encoding(path, document),
    )


def _table(path: str, key: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise MappingFault(f'{path}: {key}: must be a table of texts, like "NAME" = "text"')
    return value


def _zone(path: str, document: dict[str, Any]) -> tzinfo | None:
    if "time_zone" not in document:
        return None
    name = document["time_zone"]
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ValueError, TypeError, OSError, ZoneInfoNotFoundError):
        raise MappingFault(
            f"{path}: time_zone: there is no {name!r}; write it as the tz database does, like "
            '"Europe/Paris"'
        ) from None


def _encoding(path: str, document: dict[str, Any]) -> str | None:
    if "encoding" not in document:
        return None
    name = document["encoding"]
    if not isinstance(name, str) or (found := encoding_named(name)) is None:
        raise MappingFault(
            f"{path}: encoding: {name!r} is none; it is one like cp1252 (Excel in Western Europe), "
            "iso-8859-15, utf-8, utf-16"
        )
    return found


def _text(path: str, document: dict[str, Any], key: str, *, single: bool = False) -> str | None:
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value or (single and len(value) != 1):
        right = 'one character, like ";"' if single else "text"
        raise MappingFault(f"{path}: {key}: must be {right}")
    return value
