"""Rulebooks: the parameters of one jurisdiction, as data with their sources.

A rulebook is a TOML text. Its keys are those of `Rulebook`, `name` is the only one that
must be there, and the table `[sources]` may say for each where its value comes from.
Lists that are left out are empty: then nothing counts as a generic address.
"""

import tomllib
from collections.abc import Mapping
from typing import Any

from smtpproxy.mail.address import AddressError, canonical
from smtpproxy.policy.model import Rulebook

BUILTIN_NAMES: tuple[str, ...] = ("fr",)
"""The rulebooks that come as `NAME.toml` in this package."""

_PARAMETERS = tuple(name for name in Rulebook.__struct_fields__ if name != "name")
_LONGEST_YEARS = 100


class RulebookError(ValueError):
    """A rulebook that cannot be used; the message names the key and what would be right."""


def builtin_names() -> tuple[str, ...]:
    return BUILTIN_NAMES


def parse_rulebook(text: str) -> Rulebook:
    """Return the rulebook written in `text`; keys that are left out have their defaults.

    Raises `RulebookError`.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RulebookError(f"not TOML: {error}") from None
    _check_sources(document.pop("sources", {}))
    for key in document:
        if key != "name" and key not in _PARAMETERS:
            raise RulebookError(
                f"{key}: not a key of a rulebook: name, {', '.join(_PARAMETERS)} or [sources]"
            )
    parameters: dict[str, Any] = {
        key: _parameter(key, document[key]) for key in _PARAMETERS if key in document
    }
    rulebook = Rulebook(_name(document), **parameters)
    for method in sorted(rulebook.valid_methods & rulebook.preticked_methods):
        raise RulebookError(f'preticked_methods: "{method}" is in valid_methods too')
    return rulebook


def _name(document: Mapping[str, Any]) -> str:
    name = document.get("name")
    if not isinstance(name, str) or not name.isascii() or not name.replace("-", "_").isidentifier():
        raise RulebookError('name: must be a word such as "fr"')
    return name


def _check_sources(sources: object) -> None:
    if not isinstance(sources, dict):
        raise RulebookError("sources: must be a table: key = where its value comes from")
    for key, value in sources.items():
        if key not in _PARAMETERS:
            raise RulebookError(f"sources.{key}: not a parameter: {', '.join(_PARAMETERS)}")
        if not isinstance(value, str):
            raise RulebookError(f"sources.{key}: must be text")


def _parameter(key: str, value: object) -> int | frozenset[str]:
    if key.endswith("_years"):
        if type(value) is not int or not 1 <= value <= _LONGEST_YEARS:  # True is an int too
            raise RulebookError(f"{key}: must be a whole number from 1 to {_LONGEST_YEARS}")
        return value
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise RulebookError(f'{key}: must be a list of texts: ["…", "…"]')
    for item in value:
        _check_item(key, item)
    return frozenset(value)


def _check_item(key: str, item: str) -> None:
    """What addresses are compared with must be written as addresses are compared."""
    if key == "role_local_parts":
        address, part = f"{item}@example.com", "local part"
    elif key == "consumer_domains":
        address, part = f"contact@{item}", "domain"
    else:
        return
    try:
        right = canonical(address)
    except AddressError as error:
        raise RulebookError(f'{key}: "{item}" is no {part}: {error}') from None
    if right != address:
        local, _, domain = right.rpartition("@")
        raise RulebookError(
            f'{key}: "{item}" must be written "{local if part == "local part" else domain}"'
        )
