"""`--format` of an import: our own form, or the export of a provider."""

from pathlib import Path

import click

from smtpproxy.store.exchange.layouts import PROVIDERS, layouts
from smtpproxy.store.exchange.run import Format

_OWN: dict[str, Format] = {"csv": "csv", "ndjson": "ndjson"}


def format_type(value: str) -> str:
    """Read an option's format. For `type=format_type`."""
    names = {one.name for kind in ("suppressions", "contacts") for one in layouts(kind)}
    if value not in (*_OWN, *PROVIDERS, *names):
        known = ", ".join((*_OWN, *PROVIDERS, *sorted(names)))
        raise click.BadParameter(f"{value!r} is none of {known}")
    return value


def own_format(value: str | None) -> Format | None:
    """Return the format when it is our own form."""
    return _OWN.get(value) if value else None


def layout_name(value: str | None) -> str | None:
    """Return the layout or provider that is meant, if it is one."""
    return None if value is None or value in _OWN else value


def check_mapping_alone(mapping: Path | None, file_format: str | None) -> None:
    """A mapping and the layout of a provider say the same things: there can be one."""
    if mapping is not None and file_format not in (None, "csv"):
        raise click.UsageError(f"--mapping is about columns of CSV, and --format is {file_format}")


def name_of(path: Path) -> str:
    """Return the name by which a file hints at what it is, without .rejected."""
    return path.name.removesuffix(".rejected")
