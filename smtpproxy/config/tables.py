"""The lists of tables in a file as it was read, whatever its faults."""

from collections.abc import Iterator, Mapping
from typing import Any


def tables(document: Mapping[str, Any], section: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the entries of `[[section]]` that are tables, with their indexes."""
    entries = document.get(section)
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        if isinstance(entry, dict):
            yield index, entry
