"""Dates, times, periods and lists as each language writes them. All moments are told in UTC."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal, get_args

from smtpproxy.policy.periods import Period, Unit

Lang = Literal["en", "fr"]
LANGS: tuple[Lang, ...] = get_args(Lang)

_MONTHS: dict[Lang, str] = {
    "en": "January February March April May June July August September October November December",
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
}
_UNITS_FR = {  # one, several
    Unit.HOURS: ("heure", "heures"),
    Unit.DAYS: ("jour", "jours"),
    Unit.BUSINESS_DAYS: ("jour ouvré", "jours ouvrés"),
    Unit.MONTHS: ("mois", "mois"),
    Unit.YEARS: ("an", "ans"),
}
_CONJUNCTIONS: dict[Lang, dict[str, str]] = {
    "en": {"and": "and", "or": "or"},
    "fr": {"and": "et", "or": "ou"},
}
_TIMES: dict[Lang, str] = {"en": "{day} at {at:%H:%M:%S} UTC", "fr": "{day} à {at:%H:%M:%S} UTC"}


def date(moment: datetime, lang: Lang) -> str:
    """Return the day in UTC: `3 March 2026`, `1er mars 2026`."""
    moment = moment.astimezone(UTC)
    day = "1er" if lang == "fr" and moment.day == 1 else str(moment.day)
    return f"{day} {_MONTHS[lang].split()[moment.month - 1]} {moment.year}"


def time(moment: datetime, lang: Lang) -> str:
    return _TIMES[lang].format(day=date(moment, lang), at=moment.astimezone(UTC))


def period(length: Period, lang: Lang) -> str:
    if lang == "en":
        return str(length)
    one, several = _UNITS_FR[length.unit]
    return f"{length.count} {one if length.count < 2 else several}"


def listed(items: Sequence[str], lang: Lang, conjunction: Literal["and", "or"] = "and") -> str:
    """Return `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {_CONJUNCTIONS[lang][conjunction]} {items[-1]}"


def typeset(text: str, lang: Lang) -> str:
    """Put the spaces that no line may break at where French asks for them."""
    if lang == "en":
        return text
    text = re.sub(r" (?=[;?!])", "\N{NARROW NO-BREAK SPACE}", text)
    text = re.sub(r" (?=[:»])", "\N{NO-BREAK SPACE}", text)
    return text.replace("« ", "«\N{NO-BREAK SPACE}")
