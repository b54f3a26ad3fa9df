"""Regular expressions must mean the same to every supported Python."""

import re
from collections.abc import Iterator
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

import pytest

import smtpproxy

_ONE = {"LITERAL", "NOT_LITERAL", "ANY", "IN"}  # matches one character


def patterns() -> Iterator[tuple[str, "re.Pattern[Any]"]]:
    for module in walk_packages(smtpproxy.__path__, "smtpproxy."):
        if not module.name.endswith("__main__"):
            for name, value in vars(import_module(module.name)).items():
                for each in those_in(value):
                    yield f"{module.name}.{name}", each


def those_in(value: object) -> Iterator["re.Pattern[Any]"]:
    """The pattern itself, or those it contains."""
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, tuple | list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from those_in(each)


def repeats_a_group(parsed: Any) -> bool:
    """Whether anything longer than a character is repeated possessively."""
    for operation, argument in parsed:
        if str(operation) == "POSSESSIVE_REPEAT" and (
            len(argument[2]) > 1 or str(argument[2][0][0]) not in _ONE
        ):
            return True
        if any(map(repeats_a_group, within(argument))):
            return True
    return False


def within(argument: Any) -> Iterator[Any]:
    """The parsed expressions in an operation's argument, at any depth."""
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
def test_possessive_repeats_of_groups_are_detected(pattern: str, found: bool) -> None:
    parsed = re._parser.parse(pattern)  # type: ignore[attr-defined]
    assert repeats_a_group(parsed) is found


def test_no_group_is_repeated_possessively() -> None:
    """Python before 3.11.5, such as Debian's, counts the start of one more group as matched.

    See python/cpython issue 106052; `(?>(?:…)*)` is equivalent.
    """
    parse = re._parser.parse  # type: ignore[attr-defined]
    found = {name for name, each in patterns() if repeats_a_group(parse(each.pattern, each.flags))}
    assert found == set()
