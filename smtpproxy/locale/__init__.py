"""What people read: texts, and dates, numbers, periods and lists as a language writes them.

There is one file for each language: `en.toml`, `fr.toml`. A text has a section and a key and may
have placeholders: `reason.consent_missing`, `{purpose}`. Every language has the texts of
`en.toml` with the same placeholders, or only those of `FOR_PEOPLE`; a test names what one lacks.
A file is read when its language is first used: a process that relays mail does not pay for it. A
phrase is a text with its values; `say` fills the placeholders in.
"""

import re
import string
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct

from smtpproxy import toml
from smtpproxy.mail.dsn import NoticeText, NoticeTexts
from smtpproxy.policy.periods import Period

Lang: TypeAlias = str
"""What a file is called: `en`."""

REFERENCE: Lang = "en"
"""Has every text, and stands in for what another language lacks."""


def _languages() -> tuple[Lang, ...]:
    names = (file.name for file in resources.files(__package__).iterdir())
    found = sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))
    return (REFERENCE, *(lang for lang in found if lang != REFERENCE))


PAGE_LANGS = _languages()
"""What pages and mail to people can be in: every file."""

LANGS: tuple[Lang, ...] = (REFERENCE, "fr")
"""The languages that have all texts."""

FOR_PEOPLE = (
    "page.", "confirm.", "mail.", "term.", "why.", "fix.", "help.",
    "evidence.", "unit.", "part.purpose", "part.brand",
)  # fmt: skip
"""What every language has: what people read who follow a link, or ask what is known about them."""


_TAG = re.compile(r"[a-z]{2,3}(-[a-z0-9]{1,8}){0,4}")


def language_tag(text: str) -> str:
    """Return a language tag (RFC 5646) in lower case; `fr_FR` is accepted too.

    Raises ValueError.
    """
    tag = text.lower().replace("_", "-")
    if _TAG.fullmatch(tag) is None:
        raise ValueError('is not a language tag such as "fr" or "de-AT"')
    return tag


class Plural(Struct, frozen=True, forbid_unknown_fields=True):
    """A text that depends on the number `{count}`."""

    one: str
    other: str


Text: TypeAlias = str | Plural


class Spacing(Struct, frozen=True, forbid_unknown_fields=True):
    """A space that no line may break at, and the marks that it belongs to."""

    space: str = " "
    before: str = ""
    after: str = ""


class Language(Struct, frozen=True, forbid_unknown_fields=True):
    """How a language writes everything but words: the section `[language]` of its file.

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
        """Return a share in hundredths as `12.3%`; an int has no decimals."""
        number = str(share) if isinstance(share, int) else f"{share:.1f}"
        return self.language.percent.format(number=number.replace(".", self.language.decimal_point))

    def term(self, word: object) -> str:
        """Return a word of the closed sets (`unticked_box`) as people read it.

        A word without a text of its own is shown as it is.
        """
        text = str(word)
        scope, _, name = text.partition(":")
        if scope in ("purpose", "brand") and name:
            return (self.template(f"part.{scope}") or text).format_map({scope: name})
        return self.template(f"term.{text}") or text.replace("_", " ")


@cache
def texts(lang: Lang) -> Texts:
    """Return the texts of a language. The first time, it reads a file."""
    return read(lang, resources.files(__package__).joinpath(f"{lang}.toml").read_text("utf-8"))


def read(lang: Lang, file: str) -> Texts:
    """Read the texts of a language file.

    Raises ValueError: it is not TOML, or contains something other than texts.
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


Value: TypeAlias = (
    "str | int | datetime | Period | Past | Term | Time | Phrase | Either"
    " | tuple[Value, ...] | None"
)

_NOTHING: Mapping[str, "Value"] = MappingProxyType({})


class Term(Struct, frozen=True):
    """A word of the closed sets: `unticked_box`, `purpose:offers`."""

    word: str


class Time(Struct, frozen=True):
    """A moment whose hour matters; a bare `datetime` is shown as a day."""

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

    What a language lacks is said in English, and a key without words appears as its name: an
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


def recognised(section: str, text: str) -> Value:
    """Return the phrase of a section that reads so in English, as records have it, or the text."""
    for key, pattern in _patterns(f"{section}."):
        if found := pattern.fullmatch(text):
            return Phrase(key, found.groupdict())
    return text


@cache
def _patterns(section: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Return what the English texts of a section look like when filled in."""
    return tuple(
        (key, re.compile(_pattern(template), re.IGNORECASE))
        for key, template in texts(REFERENCE).phrases.items()
        if key.startswith(section) and isinstance(template, str)
    )


def _pattern(template: str) -> str:
    parts = string.Formatter().parse(template)
    return "".join(
        re.escape(text) + (f"(?P<{name}>.+)" if name else "") for text, name, *_ in parts
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


def notice_texts(lang: Lang) -> NoticeTexts:
    """Return what notices to senders say in a language. The first time, it reads a file."""
    return NoticeTexts(
        _said("notice.from", lang),
        refused=_text("refused", lang),
        undelivered=_text("undelivered", lang),
        relayed=_text("relayed", lang),
    )


def _text(name: str, lang: Lang) -> NoticeText:
    return NoticeText(_said(f"notice.{name}.subject", lang), _said(f"notice.{name}.text", lang))


def _said(key: str, lang: Lang) -> str:
    """The placeholders stay: a notice fills them in."""
    return say(Phrase(key, {"hostname": "{hostname}", "recipients": "{recipients}"}), lang)
