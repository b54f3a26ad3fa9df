"""The texts of one language, and dates, numbers, periods and lists as it writes them.

A file is read when its language is first spoken: whoever relays mail does not pay for it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct

from smtpproxy import toml
from smtpproxy.policy.periods import Period

Lang: TypeAlias = str
"""What a file is called: `en`."""

REFERENCE: Lang = "en"
"""Has every text. What another language lacks is said in it."""


def _languages() -> tuple[Lang, ...]:
    names = (file.name for file in resources.files(__package__).iterdir())
    found = sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))
    return (REFERENCE, *(lang for lang in found if lang != REFERENCE))


LANGS = _languages()


class Plural(Struct, frozen=True, forbid_unknown_fields=True):
    """A text that depends on how many `{count}` is."""

    one: str
    other: str


Text: TypeAlias = str | Plural


class Spacing(Struct, frozen=True, forbid_unknown_fields=True):
    """A space that no line may break at, and the marks that it belongs to."""

    space: str = " "
    before: str = ""
    after: str = ""


class Language(Struct, frozen=True, forbid_unknown_fields=True):
    """How a language writes what is not words: the section `[language]` of its file.

    `one` are the counts that are singular, `first_day` is the 1st of a month.
    """

    name: str
    months: tuple[str, ...]
    date: str
    short_date: str
    time: str
    conjunctions: Mapping[Literal["and", "or"], str]
    first_day: str = "1"
    one: frozenset[int] = frozenset({1})
    decimal_point: str = "."
    thousands: str = ","
    percent: str = "{number}%"
    spacing: Spacing = Spacing()

    def typeset(self, text: str) -> str:
        """Put the spaces that no line may break at where the file has ordinary ones."""
        space, before, after = self.spacing.space, self.spacing.before, self.spacing.after
        if before:
            text = re.sub(f" (?=[{re.escape(before)}])", space, text)
        if after:
            text = re.sub(f"(?<=[{re.escape(after)}]) ", space, text)
        return text


class Texts(Struct, frozen=True):
    """`phrases` is by section and key: `reason.no_record`."""

    lang: Lang
    language: Language
    phrases: Mapping[str, Text]

    def template(self, key: str, count: object = None) -> str | None:
        """Return a text with its placeholders, None where there is none."""
        text = self.phrases.get(key)
        if isinstance(text, Plural):
            return text.one if count in self.language.one else text.other
        return text

    def date(self, moment: datetime) -> str:
        """Return the day in UTC: `3 March 2026`, `1er mars 2026`."""
        moment = moment.astimezone(UTC)
        day = self.language.first_day if moment.day == 1 else str(moment.day)
        month = self.language.months[moment.month - 1]
        return self.language.date.format(day=day, month=month, year=moment.year)

    def short_date(self, moment: datetime) -> str:
        """Return the day in UTC, for tables: `2026-03-01`, `01/03/2026`."""
        return moment.astimezone(UTC).strftime(self.language.short_date)

    def time(self, moment: datetime) -> str:
        hour = f"{moment.astimezone(UTC):%H:%M:%S}"
        return self.language.time.format(day=self.date(moment), hour=hour)

    def period(self, length: Period) -> str:
        """Return `3 years`."""
        return self._counted("unit", length)

    def past(self, length: Period) -> str:
        """Return `in the last 3 years`."""
        return self._counted("past", length)

    def _counted(self, section: str, length: Period) -> str:
        key = f"{section}.{length.unit.replace(' ', '_')}"
        return (self.template(key, length.count) or str(length)).format(count=length.count)

    def listed(self, items: Sequence[str], conjunction: Literal["and", "or"] = "and") -> str:
        """Return `a, b and c`."""
        if len(items) < 2:
            return "".join(items)
        return f"{', '.join(items[:-1])} {self.language.conjunctions[conjunction]} {items[-1]}"

    def number(self, number: int) -> str:
        return f"{number:,}".replace(",", self.language.thousands)

    def percent(self, share: float) -> str:
        """Return `12.3%` of what is in hundredths; whole numbers only where it is an int."""
        number = str(share) if isinstance(share, int) else f"{share:.1f}"
        return self.language.percent.format(number=number.replace(".", self.language.decimal_point))

    def term(self, word: object) -> str:
        """Return a word of the closed sets (`unticked_box`) as people read it.

        A word without a text of its own is told as it is.
        """
        text = str(word)
        scope, _, purpose = text.partition(":")
        if scope == "purpose" and purpose:
            return (self.template("part.purpose") or "{purpose}").format(purpose=purpose)
        return self.template(f"term.{text}") or text.replace("_", " ")


@cache
def texts(lang: Lang) -> Texts:
    """Return the texts of a language. The first time, it reads a file."""
    return read(lang, resources.files(__package__).joinpath(f"{lang}.toml").read_text("utf-8"))


def read(lang: Lang, file: str) -> Texts:
    """Read the texts of a language file.

    Raises ValueError: it is no TOML, or holds something else than texts.
    """
    raw = toml.loads(file)
    language = msgspec.convert(raw.pop("language", {}), Language)
    return Texts(lang, language, {key: _typeset(text, language) for key, text in _texts(raw)})


def _typeset(text: Text, language: Language) -> Text:
    if isinstance(text, Plural):
        return Plural(language.typeset(text.one), language.typeset(text.other))
    return language.typeset(text)


def _texts(table: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Text]]:
    """Every text by its whole key; a table that has `other` is one text."""
    for name, value in table.items():
        key = f"{section}{name}"
        if isinstance(value, dict) and "other" not in value:
            yield from _texts(value, f"{key}.")
            continue
        try:
            yield key, msgspec.convert(value, Text)
        except msgspec.ValidationError as error:
            raise ValueError(f"{key}: must be a text, or a table of one and other") from error
