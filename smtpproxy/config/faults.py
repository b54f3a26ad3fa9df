"""What is wrong with a configuration file, said where it is wrong."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smtpproxy.config.values import shown
from smtpproxy.terminal import printable

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")

Location = tuple[str | int, ...]
"""The way to a value: ("listener", 0, "address")."""


class ConfigError(Exception):
    """The configuration cannot be used. `faults`: `FILE: key.path: what and what instead`."""

    exit_code = 2

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class Fault:
    location: Location
    text: str


def report(filename: str, document: Mapping[str, Any], faults: Iterable[Fault]) -> list[str]:
    """Return the faults as users read them, in the order of the file, each once."""
    ordered = sorted(faults, key=lambda fault: _position(document, fault.location))
    lines = (f"{filename}: {key_path(document, f.location)}: {f.text}" for f in ordered)
    return list(dict.fromkeys(map(printable, lines)))


def key_path(document: Mapping[str, Any], location: Location) -> str:
    """Return `listener "apps".address`, or `listener[0].address` when no name tells it."""
    path = ""
    for depth, step in enumerate(location):
        if isinstance(step, str):
            key = step if _BARE_KEY.fullmatch(step) else shown(step)
            path += f".{key}" if path else key
            continue
        tables = _at(document, location[:depth])
        name = _name(tables, step)
        path += f"[{step}]" if name is None else f' "{name}"'
    return path


def _name(tables: object, index: int) -> str | None:
    """What the entry of a list of tables is called, if nothing else is called so."""
    if not isinstance(tables, list):
        return None
    names = [t.get("name", t.get("address")) if isinstance(t, dict) else None for t in tables]
    name = names[index]
    if not isinstance(name, str) or not name or not name.isprintable() or '"' in name:
        return None
    return name if names.count(name) == 1 else None


def _position(document: Mapping[str, Any], location: Location) -> tuple[int, ...]:
    """Where in the file: what is missing comes after all that is there."""
    position: list[int] = []
    value: object = document
    for step in location:
        if isinstance(value, dict):
            keys = list(value)
            position.append(keys.index(step) if step in value else len(keys))
        elif isinstance(step, int):
            position.append(step)
        value = _child(value, step)
    return tuple(position)


def _at(value: object, location: Location) -> object:
    for step in location:
        value = _child(value, step)
    return value


def _child(value: object, step: str | int) -> object:
    if isinstance(value, dict):
        return value.get(step)
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        return value[step]
    return None
