"""The lists of tables in a file as it was read, whatever its faults."""

from collections.abc import Iterator, Mapping
from typing import Any, get_origin

from pydantic import BaseModel


def as_meant(document: Mapping[str, Any], root: type[BaseModel]) -> dict[str, Any]:
    """Return the document with `[stream]` read as `[[stream]]`, and `[[server]]` as `[server]`.

    Those are faults by themselves; what others say of streams must not be misled by them.
    """
    meant = dict(document)
    for name, field in root.model_fields.items():
        key = field.alias or name
        value, is_list = document.get(key), get_origin(field.annotation) is list
        if is_list and isinstance(value, dict):
            meant[key] = [value]
        elif not is_list and isinstance(value, list) and len(value) == 1:
            meant[key] = value[0]
    return meant


def tables(document: Mapping[str, Any], section: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the entries of `[[section]]` that are tables, with their indexes."""
    entries = document.get(section)
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        if isinstance(entry, dict):
            yield index, entry
