"""Explanations for people who know nothing about SMTP, for every case."""

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from smtpproxy.explain import Account, message_account, recipient_account
from smtpproxy.explain.trace import TraceStep, message_trace, trace
from smtpproxy.locale import LANGS, Lang, texts
from smtpproxy.policy.decide import decisive, judge, judge_message, judge_recipient
from smtpproxy.policy.model import (
    Action,
    Contact,
    Evidence,
    Mailing,
    MessageFeatures,
    Origin,
    Reason,
    RecipientFacts,
    Rulebook,
    Stream,
    Suppression,
    Transaction,
    Verdict,
)
from smtpproxy.policy.periods import parse_cap
from smtpproxy.policy.rulebooks import BUILTIN_NAMES, builtin
from smtpproxy.policy.rules import RecipientCase
from tests.kit.soak import times
from tests.policy.cases import (
    ADDRESS,
    AGREED,
    BOOK,
    DAY,
    GOOD_MESSAGE,
    NOW,
    OFFERS,
    PERSON,
    RECEIPTS,
    SUBSCRIBER,
    WITHDRAWN,
    suppression,
)
from tests.policy.strategies import MOMENTS, cases, random_case, untimed

Case = tuple[str, Stream, RecipientFacts]
DATES = {lang: {texts(lang).date(at): at.date() for at in MOMENTS} for lang in LANGS}


def told(
    case: Case, lang: Lang, book: Rulebook = BOOK
) -> tuple[Verdict, tuple[TraceStep, ...], Account]:
    address, stream, facts = case
    asked, known = Transaction((stream,), (address,)), {address: facts}
    (verdict,) = judge(asked, known, book, NOW).recipients
    steps = trace(asked, 0, known, book, NOW, lang)
    about, _ = decisive(RecipientCase(address, stream, facts, book, NOW))
    return verdict, steps, recipient_account(address, verdict, stream, steps, about, "was", lang)


def of(contact: Contact | None, *suppressions: object, lang: Lang = "en") -> Account:
    facts = RecipientFacts(suppressions, contact)  # type: ignore[arg-type]
    return told((ADDRESS, OFFERS, facts), lang)[2]


def _days(texts: tuple[str, ...], lang: Lang) -> list[object]:
    pattern = "|".join(sorted(map(re.escape, DATES[lang]), key=len, reverse=True))
    return [
        DATES[lang][found] for text in texts for found in re.findall(rf"(?<!\d)(?:{pattern})", text)
    ]


@untimed
@given(cases, st.sampled_from(BUILTIN_NAMES))
def test_both_languages_say_the_same_in_every_case(case: Case, rulebook: str) -> None:
    address, stream, facts = case
    case = address, replace(stream, name="flow-7", purpose=stream.purpose), facts
    accounts: dict[Lang, Account] = {}
    texts: dict[Lang, tuple[str, ...]] = {}
    for lang in LANGS:
        verdict, steps, account = told(case, lang, builtin(rulebook))
        accounts[lang] = account
        texts[lang] = (account.happened, *account.changes, *(step.text for step in steps))
        whole = "\n".join((*texts[lang], *(step.question for step in steps)))
        assert "None" not in whole
        assert "{" not in whole
        assert address in account.happened
        assert "flow-7" in account.happened
        assert bool(account.changes) is (verdict.action is not Action.ALLOW)
        assert account.notes == ()
    assert len(accounts["en"].changes) == len(accounts["fr"].changes)
    assert _days(texts["en"], "en") == _days(texts["fr"], "fr")
    for name in ("flow-7", "gmail.com", "smtpproxy consent record"):
        assert [name in text for text in texts["en"]] == [name in text for text in texts["fr"]]


@pytest.mark.soak
def test_the_advice_to_obtain_consent_is_true() -> None:
    """A consent as described removes that reason."""
    random, advised = Random(20260712), 0
    for _ in range(times(1_000, 30_000)):
        address, stream, facts = case = random_case(random)
        verdict, _, account = told(case, "en")
        if not any("by an active choice" in change for change in account.changes):
            continue
        assert stream.purpose is not None
        known = facts.contact or PERSON
        past = tuple(act for act in known.acts if act.at < NOW)
        new = replace(AGREED, purpose=stream.purpose, at=NOW, brand=stream.brand)
        facts = replace(facts, contact=replace(known, acts=(*past, new)))
        again = judge_recipient(RecipientCase(address, stream, facts, BOOK, NOW))
        if all(entry.since < NOW for entry in facts.suppressions):
            assert again.reason is not verdict.reason or len(facts.suppressions) > 1, case
            advised += 1
    assert advised > 50


def test_the_outcome_and_its_reason() -> None:
    account = of(replace(SUBSCRIBER, acts=(AGREED, WITHDRAWN)))
    assert account.happened == (
        f"Mail to {ADDRESS} was refused on stream offers: the person withdrew their consent to"
        " “offers” on 2 March 2025. A refusal counts as an objection, and only newer consent"
        " lifts it."
    )
    (change,) = account.changes
    assert change.startswith("The person agrees to “offers” again, after 2 March 2025,")


def test_a_reached_cap_names_its_end() -> None:
    stream = replace(OFFERS, frequency_cap=parse_cap("1/7d"))
    facts = RecipientFacts(contact=SUBSCRIBER, mailings=(Mailing("offers", NOW - DAY),))
    english, french = (told((ADDRESS, stream, facts), lang)[2] for lang in LANGS)
    assert "(1 in 7 days); the next may go after 7 June 2026 at" in english.happened
    assert "(1 en 7 jours)" in french.happened
    assert "après le 7 juin 2026 à" in french.happened


def test_a_person_without_consent_has_refused_and_withdrawn_nothing() -> None:
    refused = replace(SUBSCRIBER, acts=(WITHDRAWN,))
    assert "the person refused “offers” on 2 March 2025." in of(refused).happened
    assert (
        "la personne a refusé «\u202foffers\u202f» le 2 mars 2025."
        in of(refused, lang="fr").happened
    )
    of_all = replace(refused, acts=(replace(WITHDRAWN, purpose="*"),))
    assert "the person refused “marketing” on 2 March 2025." in of(of_all).happened
    withdrew = replace(SUBSCRIBER, acts=(AGREED, WITHDRAWN))
    assert "la personne a retiré son consentement" in of(withdrew, lang="fr").happened


def test_newer_consent_lifts_only_an_unsubscribe_or_an_erasure() -> None:
    for origin in Origin:
        account = of(SUBSCRIBER, suppression("marketing", origin, since=NOW - DAY))
        by_consent = any("again, after" in change for change in account.changes)
        assert by_consent is (origin in (Origin.UNSUBSCRIBE, Origin.ERASURE))


def test_a_suppression_dated_in_the_future_is_described_as_such() -> None:
    account = of(SUBSCRIBER, suppression(since=NOW + DAY))
    assert texts("en").date(NOW + DAY) in account.happened


def test_a_record_that_todays_rules_contradict_says_so() -> None:
    stream = OFFERS
    case = RecipientCase(ADDRESS, stream, RecipientFacts(), BOOK, NOW)
    steps = trace(Transaction((stream,), (ADDRESS,)), 0, {}, BOOK, NOW)
    recorded = Verdict(Action.REFUSE, Reason.CONSENT_WITHDRAWN, rule="withdrawn")
    account = recipient_account(ADDRESS, recorded, stream, steps, case, "was", "en")
    assert "the reason on record is “consent withdrawn”" in account.happened
    assert account.notes[0].startswith("The verdict on record holds.")


def test_a_removed_rulebook_leaves_the_reason() -> None:
    stream = replace(OFFERS, rulebook="ours")
    recorded = Verdict(Action.REFUSE, Reason.NO_RECORD, rule="no_record")
    account = recipient_account(ADDRESS, recorded, stream, (), None, "was", "fr")
    assert "rien n’est connu de cette adresse" in account.happened
    assert "ours" in account.notes[0]


BAD = [
    ({"malformed": "two From fields"}, "(RFC 5322)"),
    ({"from_domains": ("evil.example",)}, "adds the domain to the stream"),
    ({"unsubscribe_fields": 0}, "List-Unsubscribe: <https://…>"),
    ({"unsubscribe_fields": 2}, "exactly one List-Unsubscribe"),
    ({"one_click": False}, "List-Unsubscribe-Post: List-Unsubscribe=One-Click"),
]


@pytest.mark.parametrize(("fault", "advice"), BAD)
def test_a_refused_message_says_what_its_developer_must_fix(
    fault: dict[str, object], advice: str
) -> None:
    message: MessageFeatures = replace(GOOD_MESSAGE, **fault)
    verdict = judge_message(OFFERS, message)
    for lang in LANGS:
        steps = message_trace(OFFERS, message, BOOK, lang)
        account = message_account(verdict, OFFERS, steps, "was", lang)
        assert steps[-1].text in account.happened
        assert len(account.changes) == 1
        assert lang == "fr" or advice in account.changes[0]


METHODS = "double opt-in, signed form, box they ticked or recorded spoken agreement"
AGREES = (
    f"The person agrees to “offers” by an active choice ({METHODS}), for e-mail and not as a"
    " condition of a service"
)
STRICTLY = "The person agrees to “offers” by an active choice (double opt-in or signed form)"
AGAIN = f"The person agrees to “offers” again, after 2 March 2025, by an active choice ({METHODS})"
BUYS = (
    "The person is a customer, and the law's conditions are met: a recent purchase, the mail is"
    " about similar products, they gave you the address themselves"
)
WORKS = "The address belongs to a professional, and the law's conditions are met: it is used for"
LIFTS = "Nothing the sender can do. If the person asks"
CHANGES: list[tuple[Contact, tuple[Suppression, ...], str, list[str]]] = [
    (PERSON, (), "fr", [AGREES, BUYS, WORKS]),
    (PERSON, (), "de", [STRICTLY.replace(" or signed", ", signed")[:-1], BUYS]),
    (PERSON, (), "eu-strict", [STRICTLY, BUYS[:64]]),
    (replace(PERSON, acts=(replace(AGREED, method="preticked_box"),)), (), "fr", [AGREES]),
    (
        replace(PERSON, acts=(replace(AGREED, evidence=Evidence()),)),
        (),
        "fr",
        ["The missing proof of that consent", AGREES],
    ),
    (
        replace(PERSON, acts=(replace(AGREED, pending=True),)),
        (),
        "fr",
        ["The person confirms their request.", AGREES],
    ),
    (
        replace(PERSON, collected_at=None, acts=(replace(AGREED, at=NOW - 2000 * DAY),)),
        (),
        "fr",
        ["The person shows that they are still there", AGREES],
    ),
    (replace(PERSON, acts=(AGREED, WITHDRAWN)), (), "fr", [AGAIN]),
    (replace(PERSON, source=None), (), "fr", ["The true source of the address is recorded."]),
    (PERSON, (suppression(),), "fr", [AGAIN, "The person asks for the mail again"]),
    (PERSON, (replace(suppression(), read_as="x@b.example"),), "fr", [LIFTS]),
    (PERSON, (replace(suppression(), domain="b.example"),), "fr", ["Nothing the sender or"]),
    (PERSON, (suppression("all", Origin.COMPLAINT),), "fr", [LIFTS]),
    (PERSON, (suppression("all", Origin.BOUNCE),), "fr", ["The mailbox is known to work again"]),
]


@pytest.mark.parametrize(("contact", "orders", "rulebook", "changes"), CHANGES)
def test_any_one_of_the_suggestions_would_change_the_verdict(
    contact: Contact, orders: tuple[Suppression, ...], rulebook: str, changes: list[str]
) -> None:
    stream, book = replace(OFFERS, rulebook=rulebook), builtin(rulebook)
    account = told((ADDRESS, stream, RecipientFacts(orders, contact)), "en", book)[2]
    assert [text[: len(given)] for text, given in zip(account.changes, changes, strict=True)] == (
        changes
    )


@pytest.mark.parametrize(
    "stream", [RECEIPTS, replace(RECEIPTS, purpose="offers", confirmation=True)]
)
def test_consent_is_not_advised_where_it_lifts_no_suppression(stream: Stream) -> None:
    facts = RecipientFacts((suppression("all"),), PERSON)
    account = told((ADDRESS, stream, facts), "en")[2]
    assert [text[: len(LIFTS)] for text in account.changes] == [LIFTS]


@pytest.mark.parametrize(
    ("recorded", "notes"),
    [
        (Verdict(Action.REFUSE, Reason.RECIPIENTS_REFUSED, rule="on_mixed"), 0),
        (Verdict(Action.ALLOW, rule="message"), 0),
        (Verdict(Action.REFUSE, Reason.UNSUBSCRIBE_MISSING, rule="unsubscribe_present"), 1),
    ],
)
def test_a_message_is_described_as_recorded(recorded: Verdict, notes: int) -> None:
    steps = message_trace(OFFERS, GOOD_MESSAGE, BOOK)
    account = message_account(recorded, OFFERS, steps, "was", "en")
    assert len(account.notes) == notes


def test_a_recipient_not_judged_yet_is_described_as_that_only() -> None:
    account = recipient_account(ADDRESS, Verdict(Action.ALLOW), OFFERS, (), None, "was", "en")
    assert (account.happened, account.changes, len(account.notes)) == ("", (), 1)
    uncertain = Verdict(Action.ALLOW, rule="stream_uncertain")
    account = recipient_account(ADDRESS, uncertain, OFFERS, (), None, "was", "en")
    assert texts("en").phrases["note.not_yet"] in account.happened  # type: ignore[operator]
