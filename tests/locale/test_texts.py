"""Every text exists in every language; a language is one file."""

import re
import string
from datetime import UTC, datetime

import pytest

from smtpproxy.locale import (
    FOR_PEOPLE,
    LANGS,
    PAGE_LANGS,
    REFERENCE,
    Either,
    Lang,
    Phrase,
    Plural,
    Term,
    Text,
    Texts,
    read,
    say,
    texts,
)
from smtpproxy.policy.model import Action, Audience, Basis, Condition, Origin, Reason, Sign, Source
from smtpproxy.policy.periods import Period, Unit
from smtpproxy.policy.rulebook import Rulebook
from smtpproxy.policy.rules import tables

RULES = {
    rule.name
    for rules in (
        tables.recipient_rules(Rulebook("").bases),
        tuple(tables.BASES.values()),
        tables.DELIVERY_RULES,
        tables.DOMAIN_RULES,
        tables.WISHES,
        tables.DEFERRALS,
        tables.TRIALS,
        tables.MESSAGE_RULES,
    )
    for rule in rules
}
REASONS = [reason for reason in Reason if reason is not Reason.NONE]
KEYS = [
    *(f"{kind}.{reason}" for reason in REASONS for kind in ("reason", "why")),
    *(f"change.{reason}" for reason in REASONS if not reason.startswith(("suppressed", "consent"))),
    *(f"{kind}.{basis}" for basis in Basis for kind in ("basis", "why")),
    *(f"rule.{rule}" for rule in RULES | {"message", "stream_uncertain"}),
    *(f"passed.{rule}" for rule in RULES - {"nearest_basis", "opt_out"}),
    *(f"outcome.{outcome}" for outcome in (*Action, "passed")),
    *(f"{tense}.{action}" for action in Action for tense in ("was", "would")),
    *(f"{tense}.message.{action}" for action in Action for tense in ("was", "would")),
    *(f"part.condition.{condition}" for condition in Condition),
    *(f"part.sign.{sign}" for sign in Sign),
    *(f"reason.suppressed_{origin}" for origin in Origin),
]


def test_every_text_exists() -> None:
    missing = sorted(set(KEYS) - texts(REFERENCE).phrases.keys())
    assert missing == [], "add them to each smtpproxy/locale/*.toml"


@pytest.mark.parametrize("lang", PAGE_LANGS)
def test_every_language_has_the_same_texts_and_placeholders(lang: Lang) -> None:
    assert faults(texts(lang)) == []


def faults(spoken: Texts) -> list[str]:
    """Texts that a language file lacks, adds, or fills in differently from `en.toml`."""
    wanted, found, file = texts(REFERENCE).phrases, spoken.phrases, f"{spoken.lang}.toml"
    if spoken.lang in PAGE_LANGS and spoken.lang not in LANGS:
        wanted = {key: text for key, text in wanted.items() if key.startswith(FOR_PEOPLE)}
    missing = [f"{file}: {key}: missing" for key in wanted if key not in found]
    beside = [f"{file}: {key}: not in {REFERENCE}.toml" for key in found if key not in wanted]
    filled = [
        f"{file}: {key}: has the placeholders {sorted(fields(found[key]))},"
        f" not {sorted(fields(text))}"
        for key, text in wanted.items()
        if key in found and fields(found[key]) != fields(text)
    ]
    months = spoken.language.months
    short = [] if len(months) == 12 else [f"{file}: language.months: has {len(months)}, not 12"]
    return [*missing, *beside, *filled, *short]


def fields(text: Text) -> set[str]:
    """The placeholders; `count` is optional, as in `one line`, `{count} lines`."""
    if isinstance(text, Plural):
        return (fields(text.one) | fields(text.other)) - {"count"}
    return {name for _, name, _, _ in string.Formatter().parse(text) if name} - {"count"}


def test_another_language_is_one_file_and_missing_texts_are_reported() -> None:
    danish = read(
        "da",
        """
        [language]
        name = "Deutsch"
        months = ["Januar", "Februar", "März"]
        date = "{day}. {month} {year}"
        short_date = "%d.%m.%Y"
        time = "{day} um {hour} UTC"
        conjunctions = { and = "und", or = "oder" }
        [reason]
        no_record = "über die Adresse ist nichts bekannt"
        stream_paused = "der Strom {strom} ruht"
        never_heard_of = "?"
        """,
    )
    found = faults(danish)
    assert "da.toml: reason.consent_missing: missing" in found
    assert "da.toml: reason.no_record: missing" not in found
    assert "da.toml: reason.never_heard_of: not in en.toml" in found
    assert "da.toml: reason.stream_paused: has the placeholders ['strom'], not ['stream']" in found
    assert "da.toml: language.months: has 3, not 12" in found
    assert danish.date(datetime(2026, 3, 1, tzinfo=UTC)) == "1. März 2026"


@pytest.mark.parametrize(
    ("file", "wrong"),
    [("[reason]\nno_record = 3", "reason.no_record: must be a text"),
     ("[reason]\nno_record = { one = '', other = '', few = '' }", "one and other"),
     ("reason", "not TOML: expected = between key and value")],
)  # fmt: skip
def test_a_value_that_is_not_a_text_is_a_fault(file: str, wrong: str) -> None:
    head = "[language]\nname=''\nmonths=[]\ndate=''\nshort_date=''\ntime=''\nconjunctions={}\n"
    with pytest.raises(ValueError, match=wrong):
        read("de", head + file)


def test_every_value_of_an_enumeration_has_words() -> None:
    words = {*Reason, *Basis, *Origin, *Action, *Source, *Audience} - {"none"}
    assert {f"term.{word}" for word in words} - texts(REFERENCE).phrases.keys() == set()


@pytest.mark.parametrize("lang", PAGE_LANGS)
def test_every_text_is_translated(lang: Lang) -> None:
    spoken, others = texts(lang).phrases, [texts(other) for other in PAGE_LANGS if other != lang]
    same = [
        key
        for key, text in spoken.items()
        if key.startswith(FOR_PEOPLE)
        and len(str(text)) > 30
        and any(other.phrases.get(key) == text for other in others)
    ]
    assert same == []


def every_french_text() -> list[tuple[str, str]]:
    return [
        (key, form)
        for key, text in texts("fr").phrases.items()
        for form in ((text.one, text.other) if isinstance(text, Plural) else (text,))
    ]


WRONG_IN_FRENCH = re.compile(r"""['"]|(?<!\u202f)[:;?!»](?=\s|$)|«(?!\u202f)""")
"""French has ’ and « », and a narrow no-break space inside « » and before : ; ? and !."""


def test_french_typography_is_correct() -> None:
    shown = [(key, re.sub(r"`[^`]*`", "", text)) for key, text in every_french_text()]
    assert [(key, text) for key, text in shown if WRONG_IN_FRENCH.search(text)] == []


@pytest.mark.parametrize(
    "text", ["l'adresse", 'dit "non"', "quoi ?", "quoi? Rien", "«\u202fnon »", "« non\u202f»"]
)
def test_wrong_french_typography_is_found(text: str) -> None:
    assert WRONG_IN_FRENCH.search(text)
    assert not WRONG_IN_FRENCH.search("l’adresse dit «\u202fnon\u202f»\u202f: à 12:30\u202f?")


def test_counts_of_one_use_the_singular() -> None:
    for count, en, fr in (
        (0, "0 usable URIs", "0 adresse utilisable"),
        (1, "1 usable URI", "1 adresse utilisable"),
        (2, "2 usable URIs", "2 adresses utilisables"),
        (12345, "12,345 usable URIs", "12\u202f345 adresses utilisables"),
    ):
        phrase = Phrase("passed.unsubscribe_usable", {"count": count})
        assert say(phrase, "en").endswith(en)
        assert say(phrase, "fr").endswith(fr)


@pytest.mark.parametrize(
    ("moment", "lang", "day"),
    [
        (datetime(2026, 3, 1, tzinfo=UTC), "en", "1 March 2026"),
        (datetime(2026, 3, 1, tzinfo=UTC), "fr", "1er mars 2026"),
        (datetime(2026, 8, 31, tzinfo=UTC), "fr", "31 août 2026"),
        (datetime(2026, 12, 2, tzinfo=UTC), "en", "2 December 2026"),
    ],
)
def test_dates_in_words(moment: datetime, lang: Lang, day: str) -> None:
    assert texts(lang).date(moment) == day


def test_times_are_shown_with_their_zone() -> None:
    moment = datetime.fromisoformat("2026-03-01T00:30:00+02:00")
    assert texts("en").time(moment) == "28 February 2026 at 22:30:00 UTC"
    assert texts("fr").time(moment) == "28 février 2026 à 22:30:00 UTC"


@pytest.mark.parametrize("unit", Unit)
def test_every_unit_is_counted_in_french(unit: Unit) -> None:
    assert texts("fr").period(Period(1, unit)).startswith("1 ")
    assert texts("fr").period(Period(3, unit)).endswith("s")
    assert not texts("fr").period(Period(1, unit)).endswith("jours")


def test_lists_in_words() -> None:
    assert texts("en").listed([]) == ""
    assert texts("fr").listed(["a"]) == "a"
    assert texts("en").listed(["a", "b", "c"]) == "a, b and c"
    methods = Either((Term("signed_form"), Term("unticked_box")))
    phrase = Phrase("passed.restricted", {"tags": methods})
    assert "formulaire signé ou case à cocher" in say(phrase, "fr")


@pytest.mark.parametrize("lang", LANGS)
def test_a_missing_text_or_value_causes_no_error(lang: Lang) -> None:
    assert say(Phrase("reason.never_heard_of"), lang).replace("_", " ") == "never heard of"
    said = say(Phrase("reason.consent_withdrawn"), lang)
    assert "None" not in said
    assert "{" not in said


AVOIDED = {
    "en": ("put off", "of ours", "taken for", "Who cannot", "Whose address", "of now", "is none."),
    "fr": ("base légale", "éférentiel", "désinscrit(e)", "spammeur", "double confirmation",
           "Qui ne", "personne effacée", "n’est pas retiré", "elle a été informée",
           "Vous êtes désinscrit", " ans au plus", "depuis 3 ans", "repoussoir ?"),
}  # fmt: skip


@pytest.mark.parametrize("lang", AVOIDED)
def test_no_text_uses_unidiomatic_phrases(lang: Lang) -> None:
    said = {
        key: f"{text.one} {text.other}" if isinstance(text, Plural) else text
        for key, text in texts(lang).phrases.items()
    }
    found = [(key, word) for key, text in said.items() for word in AVOIDED[lang] if word in text]
    assert found == []
