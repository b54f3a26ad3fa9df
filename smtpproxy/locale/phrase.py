"""A thing to be said, before it is said in any language."""

import string
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import TypeAlias

from msgspec import Struct

from smtpproxy.locale.texts import REFERENCE, Lang, Plural, Texts, texts
from smtpproxy.policy.periods import Period

Value: TypeAlias = (
    "str | int | datetime | Period | Past | Term | Time | Phrase | Either"
    " | tuple[Value, ...] | None"
)

_NOTHING: Mapping[str, "Value"] = MappingProxyType({})


class Term(Struct, frozen=True):
    """A word of the closed sets: `unticked_box`, `purpose:offers`."""

    word: str


class Time(Struct, frozen=True):
    """A moment whose hour matters; a bare `datetime` is told as a day."""

    at: datetime


class Past(Struct, frozen=True):
    """The time up to now: `in the last 3 years`."""

    period: Period


class Phrase(Struct, frozen=True):
    """A text by its key, and what fills its placeholders."""

    key: str
    values: Mapping[str, Value] = _NOTHING


class Either(Struct, frozen=True):
    """`a, b or c`; a bare tuple is `a, b and c`."""

    items: tuple[Value, ...]


def say(phrase: Phrase, lang: Lang) -> str:
    """Return the phrase in words.

    What a language lacks is said in English, and a key without words told by its name: an
    explanation never fails for want of a word.
    """
    spoken, count = texts(lang), phrase.values.get("count")
    template = spoken.template(phrase.key, count)
    if template is None:
        template = texts(REFERENCE).template(phrase.key, count)
    if template is None:
        return spoken.term(phrase.key.rpartition(".")[2])
    return template.format_map(
        {name: _shown(phrase.values.get(name), spoken) for name in placeholders(template)}
    )


def has_words(key: str) -> bool:
    return key in texts(REFERENCE).phrases


def is_complete(key: str) -> bool:
    """Whether a key has words, and words that nothing has to fill in."""
    template = texts(REFERENCE).phrases.get(key)
    return template is not None and not isinstance(template, Plural) and not placeholders(template)


@lru_cache(maxsize=2048)
def placeholders(template: str) -> tuple[str, ...]:
    return tuple(name for _, name, _, _ in string.Formatter().parse(template) if name)


def _shown(value: Value, spoken: Texts) -> str:
    match value:
        case None:
            return say(Phrase("part.unknown"), spoken.lang)
        case Phrase():
            return say(value, spoken.lang)
        case Term():
            return spoken.term(value.word)
        case Time():
            return spoken.time(value.at)
        case datetime():
            return spoken.date(value)
        case Period():
            return spoken.period(value)
        case Past():
            return spoken.past(value.period)
        case Either():
            return spoken.listed([_shown(each, spoken) for each in value.items], "or")
        case tuple():
            return spoken.listed([_shown(each, spoken) for each in value])
        case int():
            return spoken.number(value)
        case _:
            return value
