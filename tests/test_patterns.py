"""Regular expressions that every supported Python reads alike."""

import re
from collections.abc import Iterator
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

import pytest

import smtpproxy

_ONE = {"LITERAL", "NOT_LITERAL", "ANY", "IN"}  # character


def patterns() -> Iterator[tuple[str, "re.Pattern[Any]"]]:
    for module in walk_packages(smtpproxy.__path__, "smtpproxy."):
        if not module.name.endswith("__main__"):
            for name, value in vars(import_module(module.name)).items():
                for each in those_in(value):
                    yield f"{module.name}.{name}", each


def those_in(value: object) -> Iterator["re.Pattern[Any]"]:
    """The pattern that it is, or those that it holds."""
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, tuple | list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from those_in(each)


def repeats_a_group(parsed: Any) -> bool:
    """Whether more than a character is repeated possessively, anywhere in it."""
    for operation, argument in parsed:
        if str(operation) == "POSSESSIVE_REPEAT" and (
            len(argument[2]) > 1 or str(argument[2][0][0]) not in _ONE
        ):
            return True
        if any(map(repeats_a_group, within(argument))):
            return True
    return False


def within(argument: Any) -> Iterator[Any]:
    """The parsed expressions in an operation's argument, however deep."""
    if isinstance(argument, re._parser.SubPattern):  # type: ignore[attr-defined]
        yield argument
    elif isinstance(argument, tuple | list):
        for each in argument:
            yield from within(each)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("a*+", False), ("[^<]++x", False), (r"(?>(?:ab)*)", False), ("(?:ab?c)*+", True),
     ("x(?:(?:ab|c)++)?", True), ("(?>(?:(?:ab)?+)*)", True)],
)  # fmt: skip
def test_the_test_below_sees_them(pattern: str, found: bool) -> None:
    parsed = re._parser.parse(pattern)  # type: ignore[attr-defined]
    assert repeats_a_group(parsed) is found


def test_no_group_is_repeated_possessively() -> None:
    """Python before 3.11.5, Debian's among them, takes the beginning of one more group to be
    matched (python/cpython issue 106052). `(?>(?:…)*)` says the same."""
    parse = re._parser.parse  # type: ignore[attr-defined]
    found = {name for name, each in patterns() if repeats_a_group(parse(each.pattern, each.flags))}
    assert found == set()
