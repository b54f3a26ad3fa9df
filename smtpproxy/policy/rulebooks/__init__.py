"""Rulebooks: the parameters of one jurisdiction, as data with their sources.

A rulebook is a TOML text. `name` is the only key that must be there; the others are those
of `document.PARAMETERS`. `extends` names a built-in rulebook whose values hold where
this one says nothing, `[add]` and `[remove]` change its lists, and `[sources]` may say for
each parameter where its value comes from. What neither says has the default of `Rulebook`;
lists of mailboxes are empty then, so that nothing counts as a generic address.
"""

from functools import cache
from importlib import resources

from smtpproxy.policy.model import Rulebook
from smtpproxy.policy.rulebooks.document import RulebookError, parse

__all__ = ["BUILTIN_NAMES", "RulebookError", "builtin", "builtin_names", "parse_rulebook"]

BUILTIN_NAMES: tuple[str, ...] = ("fr", "uk", "de", "us", "ca", "eu-strict")
"""The rulebooks that come as `NAME.toml` in this package, data that is read like code."""


def builtin_names() -> tuple[str, ...]:
    return BUILTIN_NAMES


@cache
def builtin(name: str) -> Rulebook:
    """Return a built-in rulebook. Raises KeyError for any other name."""
    if name not in BUILTIN_NAMES:
        raise KeyError(name)
    return parse_rulebook(resources.files(__name__).joinpath(f"{name}.toml").read_text("utf-8"))


def parse_rulebook(text: str) -> Rulebook:
    """Return the rulebook written in `text`. Raises RulebookError with every fault."""
    return parse(text, builtin, BUILTIN_NAMES)
