"""The steps that people read when they ask why."""

from datetime import datetime
from typing import Any

import pytest
from msgspec.structs import replace

from smtpproxy.explain.trace import TraceStep, message_trace, trace
from smtpproxy.mail.unsubscribe import FaultKind, UriFault
from smtpproxy.policy.campaign import Campaign, Trial
from smtpproxy.policy.decide import judge_message
from smtpproxy.policy.model import (
    Alignment,
    Audience,
    ConfirmLink,
    Contact,
    ContentFeatures,
    Mailing,
    MessageFeatures,
    Origin,
    Pause,
    Purchase,
    RecipientFacts,
    SignatureFinding,
    SignatureState,
    Source,
    Stream,
    Suppression,
    Transaction,
    UndeclaredBulk,
)
from smtpproxy.policy.rulebook import ExistingUnsubscribe, Reason, Rulebook
from smtpproxy.policy.rulebooks import builtin
from smtpproxy.policy.rules import tables
from tests.policy.cases import (
    ADDRESS,
    AGREED,
    APPEAL,
    BOOK,
    BUYER,
    COLLECTED,
    CUSTOMER,
    DAY,
    DISCLOSED,
    GOOD_MESSAGE,
    NOW,
    OFFERS,
    PERSON,
    RECEIPTS,
    SUBSCRIBER,
    THREE_YEARS_AGO,
    TICK,
    WITHDRAWN,
    suppression,
)
from tests.policy.test_permission import AGREED_ONCE, ASKING, LAPSED, WINDOW, silent


def _steps(
    contact: Contact | None,
    *suppressions: Suppression,
    streams: tuple[Stream, ...] = (OFFERS,),
    address: str = ADDRESS,
) -> tuple[TraceStep, ...]:
    facts = {address: RecipientFacts(suppressions, contact)}
    return trace(Transaction(streams, ("x@y", address)), 1, facts, BOOK, NOW)


def _told(steps: tuple[TraceStep, ...], rule: str) -> tuple[str, str]:
    return next((step.outcome, step.text) for step in steps if step.rule == rule)


def test_every_rule_asked_is_listed_in_order() -> None:
    steps = _steps(SUBSCRIBER)
    assert [(step.rule, step.outcome, step.text) for step in steps] == [
        ("suppression", "passed", "no suppression covers stream offers"),
        ("transactional", "passed", "stream offers is marketing: a basis is needed"),
        ("withdrawn", "passed", "no withdrawal of consent to “offers” is on record"),
        ("generic_address", "passed", "the audience on record is consumer, not generic"),
        ("no_record", "passed", "the address is on record"),
        ("restricted", "passed", "the contact is not tagged restricted"),
        ("source", "passed", "the address came from the person directly"),
        (
            "consent",
            "allow",
            "the person agreed to “offers” on 1 March 2025 (box they ticked);"
            " last activity on 1 March 2025",
        ),
        (
            "restored",
            "passed",
            "the data was not restored, or the changes after the backup are known",
        ),
        ("paused", "passed", "stream offers is not paused"),
        ("frequency", "passed", "the person has not yet had as much mail as allowed"),
        ("list_stale", "passed", "every list that must be up to date is"),
    ]


def test_every_rule_names_its_source() -> None:
    sources = [
        rule.source for rule in (*tables.recipient_rules(Rulebook("").bases), *tables.DEFERRALS)
    ]
    for source in sources + [rule.source for rule in tables.MESSAGE_RULES]:
        assert source.startswith("design ")
        assert " A" in source or "RFC" in source


OLD = THREE_YEARS_AGO - DAY
SILENT = replace(PERSON, collected_at=OLD, informed_at=OLD)

ENDINGS = [
    (None, OFFERS, "nothing is known about the address"),
    (None, RECEIPTS, "stream receipts is transactional"),
    (
        replace(PERSON, audience=Audience.GENERIC),
        OFFERS,
        "the address belongs to an organisation, not to a person",
    ),
    (
        replace(SUBSCRIBER, acts=(AGREED, WITHDRAWN)),
        OFFERS,
        "the person withdrew their consent to “offers” on 2 March 2025",
    ),
    (
        replace(PERSON, tags=frozenset({"restricted"})),
        OFFERS,
        "the contact is tagged restricted: not for bulk mail",
    ),
    (replace(PERSON, source=Source.WEB), OFFERS, "the address came from a forbidden source (web)"),
    (replace(PERSON, source=None), OFFERS, "no known source of the address is on record"),
    (
        replace(PERSON, source=Source.RENTED),
        OFFERS,
        "the source is rented, and there is no record that a supplier disclosed this sender at"
        " collection",
    ),
    (
        PERSON,
        OFFERS,
        "there is no consent to “offers” on record, and no other basis",
    ),
    (
        replace(PERSON, acts=(replace(AGREED, method="silence"),)),
        OFFERS,
        "the consent of 1 March 2025 came by silence, which is not an act of agreement",
    ),
    (
        replace(PERSON, acts=(replace(AGREED, method=None),)),
        OFFERS,
        "the consent of 1 March 2025 lacks an active method or its wording",
    ),
    (
        replace(PERSON, acts=(replace(AGREED, at=NOW + DAY),)),
        OFFERS,
        "the consent to “offers” is dated 2 June 2026, which is in the future",
    ),
    (
        replace(SILENT, acts=(replace(AGREED, at=OLD),)),
        OFFERS,
        "last activity on 31 May 2023; consent lapses after 3 years without any",
    ),
    (
        CUSTOMER,
        OFFERS,
        "the person bought a product of stream offers in the last 3 years, and was told about"
        " such mail and had a way to refuse when the address was collected",
    ),
    (
        replace(PERSON, purchases=(Purchase("hats", COLLECTED),)),
        OFFERS,
        "nothing the person bought in the last 3 years is a product of stream offers",
    ),
    (
        PERSON,
        APPEAL,
        "stream appeal belongs to a charity; the person was told about such mail and"
        " had a way to refuse when the address was collected; last activity on 1 March 2025",
    ),
    (SILENT, APPEAL, "last activity on 31 May 2023; mail must stop after 3 years without any"),
    (
        replace(PERSON, collected_at=None),  # nothing proves that the notice was in time
        APPEAL,
        "there is no record that the person was told at collection",
    ),
    (
        BUYER,
        OFFERS,
        "the person is a professional and was told about such mail and had a way to refuse when"
        " the address was collected, and the mail is about their work; last activity on"
        " 1 March 2025",
    ),
    (
        replace(BUYER, occupations=frozenset()),
        OFFERS,
        "no topic of stream offers matches an occupation on record",
    ),
    (SUBSCRIBER, replace(OFFERS, paused=True), "stream offers is paused"),
]


@pytest.mark.parametrize(("contact", "stream", "text"), ENDINGS)
def test_the_last_step_gives_the_reason(contact: Contact | None, stream: Stream, text: str) -> None:
    decided = [step for step in _steps(contact, streams=(stream,)) if step.outcome != "passed"]
    assert decided[-1].text.startswith(text)


def test_the_steps_say_why_other_bases_failed() -> None:
    steps = _steps(
        replace(
            BUYER,
            acts=(replace(AGREED, conditional=True),),
            purchases=(Purchase("shoes", OLD),),
            occupations=frozenset(),
        )
    )
    assert (
        _told(steps, "consent")[1] == "the consent of 1 March 2025 was a condition of the service"
    )
    assert _told(steps, "existing_customer")[1] == "the person bought nothing in the last 3 years"
    assert _told(steps, "charity")[1] == "stream offers does not belong to a charity"
    assert _told(steps, "professional")[1].startswith("no topic of stream offers")
    assert _told(steps, "nearest_basis")[0] == "refuse"


@pytest.mark.parametrize(
    ("origin", "law"),
    [
        (Origin.BOUNCE, ""),
        (Origin.MANUAL, ""),
        (Origin.OBJECTION, "RGPD, art. 21, § 3"),
        (Origin.ERASURE, "RGPD, art. 17"),
    ],
)
def test_only_the_persons_own_suppressions_cite_a_right(origin: Origin, law: str) -> None:
    facts = {ADDRESS: RecipientFacts((suppression(origin=origin),), SUBSCRIBER)}
    (step,) = trace(Transaction((OFFERS,), ("x@y", ADDRESS)), 1, facts, builtin("fr"), NOW)
    assert step.law == law
    assert step.source.endswith(law or "A41")
    assert "design 4.0" in step.source


def test_a_refusal_names_the_law_of_its_reason() -> None:
    """CPCE art. L. 34-5 has no limit of three years; the CNIL's recommendation does."""
    agreed = replace(AGREED, at=THREE_YEARS_AGO - DAY)
    contact = replace(PERSON, collected_at=agreed.at, last_activity_at=None, acts=(agreed,))
    facts = {ADDRESS: RecipientFacts((), contact)}
    *_, step = trace(Transaction((OFFERS,), (ADDRESS,)), 0, facts, builtin("fr"), NOW)
    assert step.reason is Reason.CONSENT_EXPIRED
    assert step.law == "CNIL, délib. n° 2021-131"


def test_the_steps_say_why_an_address_is_not_generic() -> None:
    assert _told(_steps(None), "generic_address")[1] == "the local part is not on the role list"
    steps = _steps(None, address="contact@gmail.com")
    assert (
        _told(steps, "generic_address")[1] == "gmail.com provides mailboxes for private individuals"
    )


def test_the_steps_about_an_address_handed_on() -> None:
    steps = _steps(replace(SUBSCRIBER, source=Source.PARTNER, provenance=DISCLOSED))
    assert (
        _told(steps, "source")[1] == "the source is partner, and its supplier disclosed this sender"
    )


def test_the_steps_about_suppressions() -> None:
    steps = _steps(SUBSCRIBER, suppression("marketing", Origin.OBJECTION))
    assert [(step.rule, step.outcome) for step in steps] == [("suppression", "refuse")]
    assert steps[0].text == "the person objected on 2 March 2025 to all marketing mail"


def test_a_lifted_unsubscribe_is_mentioned_where_lifted_and_where_mail_is_allowed() -> None:
    steps = _steps(SUBSCRIBER, suppression(since=COLLECTED - DAY))
    yields = "the unsubscribe of 28 February 2025 yields to the consent given on 1 March 2025"
    assert yields in _told(steps, "suppression")[1]
    assert yields in _told(steps, "consent")[1]


def test_candidate_streams_that_disagree_and_that_agree() -> None:
    news = replace(OFFERS, name="news", purpose="news")
    steps = _steps(SUBSCRIBER, streams=(news, OFFERS))
    assert [step.text for step in steps] == [
        "on stream news it would be: refused, consent missing",
        "on stream offers it would be: allowed by consent",
        "a stream that it may still be on does not refuse it, so it is not refused yet",
    ]
    assert steps[-1].outcome == "allow"
    refused = _steps(None, streams=(news, OFFERS))
    assert (refused[-1].rule, refused[-1].outcome) == ("no_record", "refuse")


def _signed(domain: str, state: str) -> SignatureFinding:
    return SignatureFinding(domain, "s", SignatureState(state))


BROKEN = _signed("b.example", "broken")
ALIGNED = replace(OFFERS, alignment=Alignment.RELAXED)
ADDS = replace(OFFERS, unsubscribe_scope="purpose:offers")
NO_BULK = replace(RECEIPTS, undeclared_bulk=UndeclaredBulk.REFUSE, bulk_recipients=50)
BULK = "it is bulk mail on a stream that is not for bulk"
SIGNED = replace(OFFERS, check_dkim=True)
MAILTO = ("mailto:leave@example.com",)
MESSAGES = [
    (OFFERS, {}, "message", "the message meets every rule of stream offers"),
    (
        OFFERS,
        {"malformed": "a NUL in line 2"},
        "header",
        "the header cannot be read: a NUL in line 2",
    ),
    (
        OFFERS,
        {"from_domains": ("b.example", "example.com", "a.example")},
        "sender",
        "the From domain a.example, b.example is not one of stream offers",
    ),
    (
        OFFERS,
        {"unsubscribe_fields": 0},
        "unsubscribe_present",
        "there is no List-Unsubscribe field",
    ),
    (
        OFFERS,
        {"unsubscribe_fields": 2},
        "unsubscribe_usable",
        "there are 2 List-Unsubscribe fields",
    ),
    (
        OFFERS,
        {"unsubscribe_https": ()},
        "unsubscribe_usable",
        "List-Unsubscribe has no https URI with a host and no mailto URI with an address",
    ),
    (
        OFFERS,
        {"unsubscribe_fault": UriFault(FaultKind.PLACEHOLDER, "{{token}}")},
        "unsubscribe_usable",
        "List-Unsubscribe still has the template placeholder {{token}} in it",
    ),
    (
        OFFERS,
        {"unsubscribe_fault": UriFault(FaultKind.HOST, "localhost")},
        "unsubscribe_usable",
        "a URI in List-Unsubscribe has the host “localhost”, which nobody else can reach",
    ),
    (
        OFFERS,
        {"unsubscribe_fault": UriFault(FaultKind.CHARACTERS, "|")},
        "unsubscribe_usable",
        "List-Unsubscribe has | in it, which is not allowed in a URI (RFC 3986)",
    ),
    (
        OFFERS,
        {"unsubscribe_fault": UriFault(FaultKind.ADDRESS, "nobody")},
        "unsubscribe_usable",
        "a mailto URI in List-Unsubscribe has “nobody” instead of an address",
    ),
    (
        OFFERS,
        {"unsubscribe_https": (), "unsubscribe_mailto": MAILTO},
        "one_click",
        "List-Unsubscribe has no https URI",
    ),
    (
        OFFERS,
        {"one_click": False},
        "one_click",
        "there is no field that reads exactly `List-Unsubscribe-Post: List-Unsubscribe=One-Click`",
    ),
    (
        RECEIPTS,
        {"unsubscribe_fields": 0},
        "message",
        "the message meets every rule of stream receipts",
    ),
    (
        ALIGNED,
        {"content": ContentFeatures(senders=("other.org", "x.net"))},
        "alignment",
        "its From domain is example.com, but it is authenticated by other.org, x.net",
    ),
    (
        ALIGNED,
        {"content": ContentFeatures()},
        "alignment",
        "neither the envelope sender nor a signature matches its From domain",
    ),
    (
        replace(OFFERS, honest_subject=True),
        {"content": ContentFeatures(fake_prefix="Re:")},
        "subject",
        "its subject begins with “Re:”, but it is not a reply",
    ),
    (
        replace(ADDS, existing_unsubscribe=ExistingUnsubscribe.REFUSE),
        {},
        "unsubscribe_usable",
        "it has its own List-Unsubscribe, and on stream offers only the relay may add one",
    ),
    (
        NO_BULK,
        {"content": ContentFeatures(bulk_markers=("list-id", "precedence"))},
        "bulk",
        f"{BULK}: its header has list-id, precedence",
    ),
    (
        NO_BULK,
        {"content": ContentFeatures(bulk_text=("unsubscribe",))},
        "bulk",
        f"{BULK}: its text has words about unsubscribing",
    ),
    (
        NO_BULK,
        {"content": ContentFeatures(bulk_text=("unsubscribe",), bulk_markers=("list-id",))},
        "bulk",
        f"{BULK}: its header has list-id, and its text has words about unsubscribing",
    ),
    (
        NO_BULK,
        {"content": ContentFeatures(alike=51)},
        "bulk",
        f"{BULK}: the same text was addressed to 51 people; the limit is 50",
    ),
    (
        SIGNED,
        {
            "dkim_fields": 2,
            "signatures": (_signed("", "uncovered"), BROKEN),
        },
        "unsubscribe_signed",
        "no signature is known to cover its unsubscribe header: that of ? does not cover it and"
        " that of b.example does not match the message",
    ),
    (
        SIGNED,
        {"dkim_fields": 1, "signatures": (_signed("b.example", "unknown"),)},
        "unsubscribe_signed",
        "no signature is known to cover its unsubscribe header: the DNS gave no answer for the key"
        " of b.example",
    ),
    (
        replace(ADDS, check_dkim=True),
        {
            "unsubscribe_fields": 0,
            "dkim_fields": 1,
            "signatures": (BROKEN,),
        },
        "unsubscribe_signed",
        "its signature does not cover the unsubscribe header, which the relay adds without signing",
    ),
    (
        replace(OFFERS, permission=True),
        {"recipients": 1, "content": ContentFeatures(confirm_link=ConfirmLink.OVER)},
        "confirm_link",
        "its confirm link is no longer valid",
    ),
]


@pytest.mark.parametrize(("stream", "changes", "rule", "text"), MESSAGES)
def test_the_steps_about_the_message(
    stream: Stream, changes: dict[str, Any], rule: str, text: str
) -> None:
    message: MessageFeatures = replace(GOOD_MESSAGE, **changes)
    steps = message_trace(stream, message)
    assert (steps[-1].rule, steps[-1].text) == (rule, text)
    verdict = judge_message(stream, message)
    assert (steps[-1].rule, steps[-1].outcome) == (verdict.rule, verdict.action)
    assert all(step.outcome == "passed" for step in steps[:-1])


def test_the_steps_about_a_good_message() -> None:
    optional = replace(OFFERS, one_click_required=False)
    message = replace(GOOD_MESSAGE, unsubscribe_encoded=True, unsubscribe_mailto=MAILTO)
    told = {step.rule: step.text for step in message_trace(optional, message)}
    assert told["header"] == "the header can be read; the From domain is example.com"
    assert told["unsubscribe_usable"] == (
        "List-Unsubscribe has 2 usable URIs, after decoding encoded words"
    )
    assert told["one_click"] == "stream offers does not require one-click"


PASSED = [
    (OFFERS, {}, "alignment", "stream offers does not ask for it"),
    (ALIGNED, {"signed_by_relay": True}, "alignment", "the relay signs for the From domain"),
    (OFFERS, {}, "imprint", "stream offers names no imprint to look for"),
    (OFFERS, {}, "subject", "stream offers does not ask for it"),
    (ADDS, {"unsubscribe_fields": 0}, "unsubscribe_present", "the relay adds it, as stream offers"),
    (
        replace(NO_BULK, undeclared_bulk=UndeclaredBulk.OBSERVE),
        {"content": ContentFeatures(alike=51)},
        "bulk",
        "the same text was addressed to 51 people; the limit is 50; stream receipts lets it pass",
    ),
    (SIGNED, {}, "unsubscribe_signed", "the message came without a DKIM signature"),
    (OFFERS, {"dkim_fields": 1}, "unsubscribe_signed", "its DKIM signatures were not checked"),
    (
        OFFERS,
        {"dkim_fields": 1, "signatures": (_signed("b.example", "valid"),)},
        "unsubscribe_signed",
        "its DKIM signatures were not checked",
    ),
    (
        SIGNED,
        {"dkim_fields": 2, "signatures": (_signed("a.example", "valid"), BROKEN)},
        "unsubscribe_signed",
        "a valid DKIM signature of a.example covers it",
    ),
]


@pytest.mark.parametrize(("stream", "changes", "rule", "text"), PASSED)
def test_the_steps_say_why_a_rule_passed(
    stream: Stream, changes: dict[str, Any], rule: str, text: str
) -> None:
    outcome, said = _told(message_trace(stream, replace(GOOD_MESSAGE, **changes)), rule)
    assert outcome == "passed"
    assert said.startswith(text)


def _paused(subject: str, cause: str, until: datetime | None = None) -> RecipientFacts:
    return RecipientFacts(contact=SUBSCRIBER, pauses=(Pause(subject, NOW - DAY, cause, until),))


ON_TRIAL = replace(OFFERS, trial=Trial(100, wait=3600.0))
NEW = ContentFeatures(campaign=Campaign("k", 100, 60, 7, NOW - 2 * TICK, NOW - TICK))
FACTS = [
    (
        _paused("stream:offers", "complaint", NOW + DAY),
        OFFERS,
        "stream offers has been paused since 31 May 2026 at 12:00:00 UTC, because too many"
        " recipients complained, until 2 June 2026 at 12:00:00 UTC",
    ),
    (
        _paused("brand:default", "person"),
        OFFERS,
        "all marketing of the brand default has been paused since 31 May 2026 at 12:00:00 UTC, by"
        " the operator of the relay, until somebody resumes it",
    ),
    (
        RecipientFacts(contact=replace(CUSTOMER, informed_at=None, never_informed=True)),
        OFFERS,
        "the person was not told at collection",
    ),
    (
        RecipientFacts(contact=replace(CUSTOMER, informed_at=None)),
        OFFERS,
        "there is no record that the person was told at collection",
    ),
    (
        RecipientFacts(contact=replace(CUSTOMER, optout_offered=False)),
        OFFERS,
        "no way to refuse was offered at collection",
    ),
    (
        RecipientFacts(contact=replace(CUSTOMER, optout_offered=None)),
        OFFERS,
        "there is no record of a way to refuse at collection",
    ),
    (
        RecipientFacts(
            contact=replace(BUYER, occupations=frozenset(), profiling_objected_at=NOW - DAY)
        ),
        OFFERS,
        "the person objected to profiling, and no topic of stream offers matches an occupation",
    ),
    (
        RecipientFacts(contact=SUBSCRIBER),
        ON_TRIAL,
        "the campaign is new, and too many of its first 100 recipients do not know the sender (60)"
        " or do not exist (7): the others wait until 1 June 2026 at 12:59:59 UTC",
    ),
    (
        RecipientFacts(contact=AGREED_ONCE),
        ASKING,
        "a basis still holds, so there is nothing to ask",
    ),
    (
        RecipientFacts(contact=LAPSED),
        ASKING,
        "last activity on 25 May 2023; within 30 days after the end, the person may be asked once",
    ),
    (
        RecipientFacts(contact=LAPSED, mailings=(Mailing("permission:default", NOW - DAY),)),
        ASKING,
        "the person was asked on 31 May 2026 whether to go on, and may be asked once",
    ),
    (
        RecipientFacts(contact=silent(AGREED_ONCE, WINDOW - DAY)),
        ASKING,
        "the last basis did not end within the 30 days in which the person may be asked once",
    ),
]


@pytest.mark.parametrize(("facts", "stream", "text"), FACTS)
def test_the_last_step_states_the_facts(facts: RecipientFacts, stream: Stream, text: str) -> None:
    message = replace(GOOD_MESSAGE, content=NEW if stream is ON_TRIAL else None)
    asked = Transaction((stream,), (ADDRESS,), message)
    steps = trace(asked, 0, {ADDRESS: facts}, BOOK, NOW)
    assert [step for step in steps if step.outcome != "passed"][-1].text.startswith(text)
