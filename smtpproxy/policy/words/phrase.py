"""A thing to be said, before it is said in any language."""

import string
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import TypeAlias

from msgspec import Struct

from smtpproxy.policy.periods import Period
from smtpproxy.policy.words.en import EN
from smtpproxy.policy.words.fr import FR
from smtpproxy.policy.words.lang import Lang, date, listed, period, time, typeset
from smtpproxy.policy.words.terms import term

Value: TypeAlias = (
    "str | int | datetime | Period | Term | Time | Phrase | Either | tuple[Value, ...] | None"
)

_NOTHING: Mapping[str, "Value"] = MappingProxyType({})
_PHRASES: dict[Lang, Mapping[str, str]] = {
    "en": EN,
    "fr": {key: typeset(text, "fr") for key, text in FR.items()},
}


class Term(Struct, frozen=True):
    """A word of the closed sets: `unticked_box`, `purpose:offers`."""

    word: str


class Time(Struct, frozen=True):
    """A moment whose hour matters; a bare `datetime` is told as a day."""

    at: datetime


class Phrase(Struct, frozen=True):
    """A text of `en.py` and `fr.py` by its key, and what fills it in."""

    key: str
    values: Mapping[str, Value] = _NOTHING


class Either(Struct, frozen=True):
    """`a, b or c`; a bare tuple is `a, b and c`."""

    items: tuple[Value, ...]


def say(phrase: Phrase, lang: Lang) -> str:
    """Return the phrase in words.

    A key without words is told by its name: an explanation never fails for want of a word.
    """
    template = _PHRASES[lang].get(phrase.key)
    if template is None:
        return term(phrase.key.rpartition(".")[2], lang)
    return template.format_map(
        {name: _shown(phrase.values.get(name), lang) for name in _fields(template)}
    )


def has_words(key: str) -> bool:
    return key in EN


def is_complete(key: str) -> bool:
    """Whether a key has words, and words that nothing has to fill in."""
    return key in EN and not _fields(EN[key])


@lru_cache(maxsize=1024)
def _fields(template: str) -> tuple[str, ...]:
    return tuple(name for _, name, _, _ in string.Formatter().parse(template) if name)


def _shown(value: Value, lang: Lang) -> str:
    match value:
        case None:
            return say(Phrase("unknown"), lang)
        case Phrase():
            return say(value, lang)
        case Term():
            return term(value.word, lang)
        case Time():
            return time(value.at, lang)
        case datetime():
            return date(value, lang)
        case Period():
            return period(value, lang)
        case Either():
            return listed([_shown(each, lang) for each in value.items], lang, "or")
        case tuple():
            return listed([_shown(each, lang) for each in value], lang)
        case _:
            return str(value)
