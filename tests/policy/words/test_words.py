"""Everything that can be said has words, in every language."""

import re
import string
from datetime import UTC, datetime

import pytest

from smtpproxy.policy.model import Action, Basis, Condition, Origin, Reason, Sign
from smtpproxy.policy.periods import Period, Unit
from smtpproxy.policy.rules import table
from smtpproxy.policy.words.en import EN
from smtpproxy.policy.words.fr import FR
from smtpproxy.policy.words.lang import LANGS, Lang, date, listed, period, time, typeset
from smtpproxy.policy.words.phrase import Either, Phrase, Term, say
from smtpproxy.policy.words.terms import term

RULES = {
    rule.name
    for rules in (
        table.RECIPIENT_RULES,
        tuple(table.BASES.values()),
        table.DELIVERY_RULES,
        table.DOMAIN_RULES,
        table.DEFERRALS,
        table.MESSAGE_RULES,
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
    *(f"condition.{condition}" for condition in Condition),
    *(f"sign.{sign}" for sign in Sign),
    *(f"reason.suppressed_{origin}" for origin in Origin),
]


@pytest.mark.parametrize("key", sorted(KEYS))
def test_everything_has_words_in_both_languages(key: str) -> None:
    for words, name in ((EN, "en"), (FR, "fr")):
        files = f"smtpproxy/policy/words/{name}.py or {name}_advice.py"
        assert words.get(key), f"no words for {key!r}: add them to {files}"


def test_both_languages_say_the_same_things_of_the_same_things() -> None:
    assert EN.keys() == FR.keys()
    for key, text in EN.items():
        assert _fields(FR[key]) == _fields(text), key


def _fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("word", [*Reason, *Basis, *Origin, *Action])
def test_the_closed_sets_have_french_words(word: str) -> None:
    if word not in ("none", "professional"):
        assert term(word, "fr") not in (word, word.replace("_", " ")), (
            f"add {word!r} to smtpproxy/policy/words/terms.py"
        )


@pytest.mark.parametrize("key", FR)
def test_french_is_written_as_french_is(key: str) -> None:
    text = typeset(re.sub(r"`[^`]*`", "", FR[key]), "fr")
    assert "'" not in text, "the apostrophe is ’"
    assert '"' not in text, "the quotation marks are « »"
    assert not re.search(r"(?<![\u00a0\u202f])[:;?!»](?=\s|$)", text), text
    assert not re.search(r"«(?!\u00a0)", text)


@pytest.mark.parametrize(
    ("moment", "lang", "day"),
    [
        (datetime(2026, 3, 1, tzinfo=UTC), "en", "1 March 2026"),
        (datetime(2026, 3, 1, tzinfo=UTC), "fr", "1er mars 2026"),
        (datetime(2026, 8, 31, tzinfo=UTC), "fr", "31 août 2026"),
        (datetime(2026, 12, 2, tzinfo=UTC), "en", "2 December 2026"),
    ],
)
def test_days(moment: datetime, lang: Lang, day: str) -> None:
    assert date(moment, lang) == day


def test_hours_say_their_zone_and_are_in_it() -> None:
    moment = datetime.fromisoformat("2026-03-01T00:30:00+02:00")
    assert time(moment, "en") == "28 February 2026 at 22:30:00 UTC"
    assert time(moment, "fr") == "28 février 2026 à 22:30:00 UTC"


@pytest.mark.parametrize("unit", Unit)
def test_every_unit_is_counted_in_french(unit: Unit) -> None:
    assert period(Period(1, unit), "fr").startswith("1 ")
    assert period(Period(3, unit), "fr").endswith("s")
    assert not period(Period(1, unit), "fr").endswith("jours")


def test_lists() -> None:
    assert listed([], "en") == ""
    assert listed(["a"], "fr") == "a"
    assert listed(["a", "b", "c"], "en") == "a, b and c"
    methods = Either((Term("signed_form"), Term("unticked_box")))
    phrase = Phrase("passed.restricted", {"tags": methods})
    assert "formulaire signé ou case à cocher" in say(phrase, "fr")


@pytest.mark.parametrize("lang", LANGS)
def test_for_want_of_a_word_or_a_value_nothing_fails(lang: Lang) -> None:
    assert say(Phrase("reason.never_heard_of"), lang).replace("_", " ") == "never heard of"
    said = say(Phrase("reason.consent_withdrawn"), lang)
    assert "None" not in said
    assert "{" not in said
