"""The effects of a report, each only once: suppression, count, bounce for the application."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from msgspec.structs import replace

from smtpproxy.feedback import read_report
from smtpproxy.feedback.records import FeedbackReport
from smtpproxy.mail.return_path import ReturnPaths
from smtpproxy.mail.unsubscribe_token import Unsubscription, stream_tag
from smtpproxy.mailbox.acting import Actor, Done, wants_feedback
from smtpproxy.mailbox.authentication import Authentication
from smtpproxy.mailbox.messages import on_record
from smtpproxy.mailbox.reading import Reader
from smtpproxy.mailbox.tokens import Tokens
from smtpproxy.policy.breaker import Feedback
from smtpproxy.policy.model import Origin, Stream, Suppression
from smtpproxy.policy.periods import parse_cap
from smtpproxy.settings import FeedbackSettings, StoreSettings, WebhookSettings
from smtpproxy.store import open_feedback, open_store
from smtpproxy.store.breaker import Breaker
from smtpproxy.store.link_keys import LinkReader, ensure_link_keys, link_ring, load_link_keys
from smtpproxy.store.maildir import Arrived
from smtpproxy.store.propagation import LoggedEvent, NewEvent
from smtpproxy.store.sql.store import Store
from tests.kit import journal, traffic
from tests.kit.reports import attached_complaint, bounce, complaint, letter

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
ANN, BOB = "ann@people.example", "bob@people.example"
ID, ANOTHER = "01J9ZZZZZZ0123456789ABCDEF", "01J9ZZZZZZ0123456789ABCDEG"
DOMAIN = "bounces.shop.example"
OFFERS = Stream(name="offers", purpose="offers", verp=True, brand="shop")


class Mailbox:
    """The acting part of a mailbox, over its own store."""

    def __init__(self, folder: Path, store: Store, settings: FeedbackSettings) -> None:
        ensure_link_keys(folder, date(2026, 1, 1))
        keys = {key.version: key.secret for key in load_link_keys(folder).values()}
        self.paths = ReturnPaths(keys, DOMAIN)
        self.ring = link_ring(folder)
        self.store = store
        self.log = open_feedback(StoreSettings(f"sqlite://{folder}/store.db"))
        self.audit = folder / "audit"
        self.audit.mkdir()
        here = partial(on_record, self.audit)
        tokens = Tokens(LinkReader(folder), DOMAIN, {"offers": OFFERS}, here)
        self.reader = Reader(settings, tokens)
        self.actor = Actor(settings, lambda: store, self.log)
        self.number = 0

    def path(self, recipient: str, id: str = ID) -> str:
        return self.paths.make(id, "offers", recipient)

    def token(self, recipient: str, scope: str = "purpose:offers") -> str:
        return self.ring.seal(Unsubscription(recipient, scope, ID, stream_tag("offers")))

    def set(self, settings: FeedbackSettings) -> None:
        self.actor = replace(self.actor, settings=settings)
        self.reader = replace(self.reader, settings=settings)

    async def take(self, *reports: bytes, at: datetime = NOW) -> Sequence[Done]:
        arrived = []
        for content in reports:
            self.number += 1
            arrived.append(Arrived(f"r{self.number}", at, len(content), content))
        return await self.actor.act(await self.reader.read(arrived))

    async def suppressed(self, address: str) -> list[tuple[str, Origin]]:
        return [(s.scope, s.origin) for s in await self.standing(address)]

    async def standing(self, address: str) -> Sequence[Suppression]:
        return await self.store.suppressions(address)


@pytest.fixture
async def mailbox(tmp_path: Path) -> AsyncIterator[Mailbox]:
    store = open_store(StoreSettings(f"sqlite://{tmp_path}/store.db"), tmp_path)
    mailbox = Mailbox(tmp_path, store, FeedbackSettings(DOMAIN))
    yield mailbox
    mailbox.log.close()
    await store.close()


async def test_a_dead_mailbox_gets_no_more_mail(mailbox: Mailbox) -> None:
    (done,) = await mailbox.take(bounce(ANN, to=mailbox.path(ANN)))
    (standing,) = await mailbox.standing(ANN)
    assert (standing.scope, standing.origin, standing.since) == ("all", Origin.BOUNCE, NOW)
    assert standing.note == "no such mailbox"
    assert await mailbox.log.totals() == {("dead", "offers"): 1}
    assert done.understood.hands_on
    assert [due.decision for due in await mailbox.log.due(NOW, 9)] == [ID]


async def test_a_report_of_several_kinds_is_handed_on_as_the_gravest(mailbox: Mailbox) -> None:
    """Otherwise a single return path could yield 63 bounces of six kinds."""
    full = "552 5.2.2 mailbox full"
    also = f"Action: failed\r\nStatus: 5.2.2\r\nDiagnostic-Code: smtp; {full}"
    both = f"550 5.1.1 no such user\r\n\r\nFinal-Recipient: rfc822; {BOB}\r\n{also}"
    path = mailbox.path(ANN)
    await mailbox.take(bounce(ANN, to=path, said=both))
    await mailbox.take(bounce(ANN, to=path), bounce(ANN, to=path, status="5.2.2", said=full))
    assert [due.report for due in await mailbox.log.due(NOW, 9)] == ["r1", "r3"]
    assert await mailbox.log.totals() == {("dead", "offers"): 1, ("full", "offers"): 1}


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        ("5.2.2", "552 5.2.2 mailbox full", "full"),
        ("5.7.1", "550 5.7.1 blocked by our policy", "blocked"),
        ("5.7.1", "550 5.7.1 message rejected as spam", "spam"),
        ("4.4.1", "connection timed out", "transient"),
    ],
)
async def test_other_failures_count_only_against_the_stream(
    mailbox: Mailbox, status: str, said: str, kind: str
) -> None:
    await mailbox.take(bounce(ANN, to=mailbox.path(ANN), status=status, said=said))
    assert await mailbox.suppressed(ANN) == []
    assert await mailbox.log.totals() == {(kind, "offers"): 1}
    assert len(await mailbox.log.due(NOW, 9)) == 1, "the application gets it"


async def test_a_repeated_report_has_no_effect(mailbox: Mailbox) -> None:
    report = bounce(ANN, to=mailbox.path(ANN))
    await mailbox.take(report, report)
    await mailbox.take(b"Received: by another way\r\n" + report, at=NOW + timedelta(days=1))
    (standing,) = await mailbox.standing(ANN)
    assert standing.since == NOW
    assert await mailbox.log.totals() == {("dead", "offers"): 1}
    assert len(await mailbox.log.due(NOW, 9)) == 1
    await mailbox.store.remove_suppression(ANN, at=NOW, reason="mailbox works again")
    await mailbox.take(report, at=NOW + timedelta(days=2))
    assert await mailbox.suppressed(ANN) == [], "a suppression lifted by hand stays lifted"
    await mailbox.take(bounce(ANN, to=mailbox.path(ANN, ANOTHER)), at=NOW + timedelta(days=3))
    assert await mailbox.suppressed(ANN) == [("all", Origin.BOUNCE)], "another report counts"


async def test_forged_reports_have_no_effect(mailbox: Mailbox) -> None:
    other = ReturnPaths({1: b"x" * 64}, DOMAIN).make(ID, "offers", ANN)
    token = mailbox.token(ANN)
    storm = [
        bounce(ANN),
        bounce(ANN, to=other),
        bounce(ANN, to=mailbox.path(ANN)[:-30] + "@" + DOMAIN),
        bounce(ANN, f"Return-Path: <{other}>"),
        complaint(ANN),
        complaint(ANN, f"List-Unsubscribe: <https://u.example/u/{token[:-2]}aa>"),
        letter("unsubscribe", to=f"stop@{DOMAIN}", sender=ANN),
        letter(f"unsubscribe {token[:-2]}aa", to=f"stop@{DOMAIN}", sender=ANN),
    ]
    await mailbox.take(*storm)
    assert await mailbox.suppressed(ANN) == []
    assert await mailbox.log.due(NOW, 99) == []
    totals = await mailbox.log.totals()
    assert {stream for _, stream in totals} == {"unknown"}


async def test_a_token_suppresses_only_its_own_recipient(mailbox: Mailbox) -> None:
    await mailbox.take(bounce(BOB, to=mailbox.path(ANN)))
    assert await mailbox.suppressed(BOB) == []
    assert await mailbox.suppressed(ANN) == []
    clock = journal.Clock()
    written = journal.journal(mailbox.audit, clock)
    record = journal.decided(clock, ANN)
    await written.commit(record)
    written.close()
    await mailbox.take(bounce(BOB, to=mailbox.path(ANN, record.id)))
    assert await mailbox.suppressed(BOB) == [], "an address the mail was forwarded to"
    assert await mailbox.suppressed(ANN) == [("all", Origin.BOUNCE)], "known from the record"
    assert traffic.OFFERS.name == "offers"


async def test_the_return_path_addressed_outweighs_those_in_the_report(mailbox: Mailbox) -> None:
    paths = f"Return-Path: <{mailbox.path(BOB)}>", f"X-Other: {BOB}"
    await mailbox.take(bounce(ANN, *paths, to=mailbox.path(ANN)))
    assert await mailbox.suppressed(ANN) == [("all", Origin.BOUNCE)]
    assert await mailbox.suppressed(BOB) == []


async def test_a_stream_or_purpose_may_have_been_removed(mailbox: Mailbox) -> None:
    breaker = HeardBy()
    mailbox.actor = replace(mailbox.actor, breaker=cast(Breaker, breaker))
    await mailbox.take(bounce(ANN, to=mailbox.paths.make(ID, "gone", ANN)))
    assert await mailbox.suppressed(ANN) == [("all", Origin.BOUNCE)]
    assert breaker.heard_of == []
    gone = mailbox.token(BOB, "purpose:gone")
    await mailbox.take(letter(f"unsubscribe {gone}", to=f"stop@{DOMAIN}", sender=BOB))
    assert await mailbox.suppressed(BOB) == [("purpose:offers", Origin.UNSUBSCRIBE)]


def test_own_and_repeated_addresses_do_not_use_up_the_limit(mailbox: Mailbox) -> None:
    ours = " ".join(f"b={number}@{DOMAIN}" for number in range(300))
    others = " ".join(f"{number}@people.example" for number in range(300))
    named = list(mailbox.reader.tokens.named(f"{ours} {f'{ANN} ' * 300} a@-.example {others}"))
    assert (named[0], named[1], len(named)) == (ANN, "0@people.example", 199)


async def test_reports_without_tokens_are_believed_only_if_configured(mailbox: Mailbox) -> None:
    mailbox.set(FeedbackSettings(DOMAIN, require_token=False))
    wish = letter("unsubscribe", to=f"stop@{DOMAIN}", sender="eve@people.example")
    await mailbox.take(bounce(ANN), complaint(BOB), wish)
    assert await mailbox.suppressed(ANN) == [("all", Origin.BOUNCE)]
    assert await mailbox.suppressed(BOB) == [("marketing", Origin.COMPLAINT)]
    (standing,) = await mailbox.standing("eve@people.example")
    assert (standing.scope, standing.note) == ("marketing", "by e-mail")


async def test_a_complaint_is_about_the_brand_of_its_stream(mailbox: Mailbox) -> None:
    await mailbox.take(complaint("", f"Return-Path: <{mailbox.path(ANN)}>", f"To: {ANN}"))
    assert await mailbox.suppressed(ANN) == [("brand:shop", Origin.COMPLAINT)]
    uri = f"List-Unsubscribe: <https://unsubscribe.example/u/{mailbox.token(BOB)}>"
    await mailbox.take(complaint("", uri))
    assert await mailbox.suppressed(BOB) == [("brand:shop", Origin.COMPLAINT)]
    assert await mailbox.log.totals() == {("complaint", "offers"): 2}


@pytest.mark.parametrize("field", ["Message-ID: <{}>", "Feedback-ID: {}::offers:smtpproxy"])
async def test_a_complaint_is_traced_by_what_is_left_of_the_message(
    mailbox: Mailbox, field: str
) -> None:
    path = mailbox.path(ANN)
    token = path if "Message" in field else path.partition("@")[0]
    await mailbox.take(complaint(ANN, field.format(token)))
    assert await mailbox.suppressed(ANN) == [("brand:shop", Origin.COMPLAINT)]


@pytest.mark.parametrize(
    "field",
    [
        "Return-Path: <{path}>",
        "Authentication-Results: hotmail.com; spf=pass smtp.mailfrom={path}",
        "Message-ID: <{path}>",
        "Feedback-ID: {local}::offers:smtpproxy",
        "List-Unsubscribe: <https://unsubscribe.example/u/{link}>",
    ],
)
async def test_a_complaint_that_only_attaches_the_message_is_traced(
    mailbox: Mailbox, field: str
) -> None:
    path = mailbox.path(ANN)
    told = field.format(path=path, local=path.partition("@")[0], link=mailbox.token(ANN))
    await mailbox.take(attached_complaint(told, recipient=ANN))
    assert await mailbox.suppressed(ANN) == [("brand:shop", Origin.COMPLAINT)]
    await mailbox.take(attached_complaint(recipient=BOB))
    assert await mailbox.suppressed(BOB) == []


async def test_mail_with_the_token_of_a_link_unsubscribes_like_the_link(
    mailbox: Mailbox,
) -> None:
    wish = f"unsubscribe {mailbox.token(ANN)}"
    await mailbox.take(letter(wish, to=f"stop@{DOMAIN}", sender="another@people.example"))
    (standing,) = await mailbox.standing(ANN)
    assert (standing.scope, standing.origin) == ("purpose:offers", Origin.UNSUBSCRIBE)
    assert standing.note == f"link of id={ID}"
    later = NOW + timedelta(days=30)
    again = letter(wish, "Message-ID: <2@x>", to=f"stop@{DOMAIN}", sender=ANN)
    await mailbox.take(again, at=later)
    (standing,) = await mailbox.standing(ANN)
    assert standing.since == later, "it outweighs consent given in between"


async def test_an_unsubscribe_mail_delivered_again_has_no_effect(mailbox: Mailbox) -> None:
    """When a mailbox is restored or an MTA delivers twice, consent given in between stays."""
    fields = ("Message-ID: <wish@people.example>", "Date: Sat, 28 Nov 2026 12:00:00 +0000")
    wish = letter(f"unsubscribe {mailbox.token(ANN)}", *fields, to=f"stop@{DOMAIN}", sender=ANN)
    await mailbox.take(wish)
    later = NOW + timedelta(days=40)
    await mailbox.log.purge(later - timedelta(days=1))
    signed = b"Received: by mx\r\nDKIM-Signature: v=1; added=later\r\n" + wish + b"-- \r\n"
    by_another = wish.replace(b"To: stop", b"X-List: a\r\nTo: another")
    for again in (wish, signed, by_another, wish.replace(b"\r\n", b"\n")):
        await mailbox.take(again, at=later)
    (standing,) = await mailbox.standing(ANN)
    assert standing.since == NOW
    assert await mailbox.log.totals() == {("unsubscribe", "offers"): 1}
    await mailbox.take(wish.replace(b"<wish@", b"<second@"), at=later)
    (standing,) = await mailbox.standing(ANN)
    assert standing.since == later, "a new mail is a new wish"


@pytest.mark.parametrize(
    "fields", [(), ("Message-ID: odd",), ("Message-ID: <1@x.example>", "Message-ID: <2@x.example>")]
)
async def test_an_unsubscribe_mail_without_message_id_is_identified_by_its_text(
    mailbox: Mailbox, fields: Sequence[str]
) -> None:
    for day in range(3):
        body = f"since day {day // 2}"
        subject = f"unsubscribe {mailbox.token(ANN)}"
        wish = letter(subject, *fields, to=f"stop@{DOMAIN}", sender=ANN, body=body)
        await mailbox.take(wish, at=NOW + timedelta(days=day))
        (standing,) = await mailbox.standing(ANN)
        assert standing.since == NOW + timedelta(days=2 * (day // 2))


async def test_an_unreadable_report_does_not_hold_up_others(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(content: bytes, **more: Any) -> FeedbackReport:
        if content == b"odd":
            raise ValueError("a fault")
        return read_report(content, **more)

    monkeypatch.setattr("smtpproxy.mailbox.reading.read_report", faulty)
    await mailbox.take(b"odd", bounce(ANN, to=mailbox.path(ANN)))
    assert await mailbox.suppressed(ANN) == [("all", Origin.BOUNCE)]
    (kept,) = await mailbox.log.kept()
    assert (kept.id, kept.kind) == ("r1", "other")
    assert "fault of the program" in kept.why


async def test_a_report_whose_signatures_cannot_be_checked_does_not_hold_up_others(
    mailbox: Mailbox,
) -> None:
    class Faulty:
        async def checked(self, content: bytes, report: FeedbackReport) -> FeedbackReport:
            if content == b"odd":
                raise ValueError("a fault")
            return report

    mailbox.reader = replace(mailbox.reader, authentication=cast("Authentication", Faulty()))
    await mailbox.take(b"odd", bounce(ANN, to=mailbox.path(ANN)))
    assert await mailbox.suppressed(ANN) == [("all", Origin.BOUNCE)]
    (kept,) = await mailbox.log.kept()
    assert "fault of the program" in kept.why


async def test_an_unsubscribe_mail_is_about_the_person_and_mail_of_its_token(
    mailbox: Mailbox,
) -> None:
    """No matter who forwards it, or where."""
    forwarded = letter(f"Fwd: {mailbox.token(ANN)}", to=mailbox.path(BOB), sender=BOB)
    await mailbox.take(forwarded)
    assert await mailbox.suppressed(BOB) == []
    assert await mailbox.suppressed(ANN) == [("purpose:offers", Origin.UNSUBSCRIBE)]
    token = mailbox.token(BOB, "brand:shop")
    await mailbox.take(letter(token, to=f"stop@{DOMAIN}", sender="x@y.example"))
    assert await mailbox.suppressed(BOB) == [("brand:shop", Origin.UNSUBSCRIBE)]


async def test_reusing_a_message_id_does_not_hide_another_unsubscribe(mailbox: Mailbox) -> None:
    """Writers choose the Message-ID, so a used one proves nothing about other mail."""
    for who in (ANN, BOB):
        wish = f"unsubscribe {mailbox.token(who)}"
        await mailbox.take(letter(wish, "Message-ID: <same@x>", to=f"stop@{DOMAIN}", sender=who))
        assert await mailbox.suppressed(who) == [("purpose:offers", Origin.UNSUBSCRIBE)]


async def test_repeatedly_full_mailboxes_are_suppressed(mailbox: Mailbox) -> None:
    mailbox.set(FeedbackSettings(DOMAIN, suppress_full=parse_cap("3/30d")))
    for day in range(3):
        assert await mailbox.suppressed(ANN) == []
        path = mailbox.path(ANN, f"01J9ZZZZZZ0123456789ABCD{day}0")
        report = bounce(ANN, to=path, status="5.2.2", said="552 5.2.2 mailbox full")
        await mailbox.take(report, report, at=NOW + timedelta(days=day))
        path = mailbox.path(BOB, f"01J9ZZZZZZ0123456789ABCD{day}0")
        await mailbox.take(bounce(BOB, to=path, status="5.7.1", said="550 5.7.1 blocked by policy"))
    assert await mailbox.suppressed(ANN) == [("all", Origin.BOUNCE)]
    assert await mailbox.suppressed(BOB) == []


@pytest.mark.parametrize(
    ("require_token", "authenticate", "believed"),
    [(True, "optional", False), (False, "required", False), (False, "optional", True)],
)
async def test_reports_of_full_mailboxes_need_the_same_proof(
    mailbox: Mailbox,
    require_token: bool,
    authenticate: Literal["required", "optional"],
    believed: bool,
) -> None:
    settings = FeedbackSettings(
        DOMAIN,
        require_token=require_token,
        authenticate=authenticate,
        suppress_full=parse_cap("1/30d"),
    )
    mailbox.set(settings)
    await mailbox.take(bounce(ANN, status="5.2.2", said="552 5.2.2 mailbox full"))
    assert await mailbox.suppressed(ANN) == ([("all", Origin.BOUNCE)] if believed else [])


async def told(mailbox: Mailbox) -> list[dict[str, object]]:
    logged = await mailbox.store.changes(0, 100)
    return [dict(one.data) for one in logged if isinstance(one, LoggedEvent)]


async def test_webhooks_get_each_report_once_without_the_address(mailbox: Mailbox) -> None:
    tells = wants_feedback([WebhookSettings("crm", "", Path(), frozenset({"feedback"}))])
    mailbox.actor = replace(mailbox.actor, tells=tells)
    full = bounce(ANN, to=mailbox.path(ANN), status="5.2.2", said="552 5.2.2 mailbox full")
    wish = letter(f"unsubscribe {mailbox.token(BOB)}", to=f"stop@{DOMAIN}", sender=BOB)
    strange = letter("Hello", to=mailbox.path(ANN), sender=BOB, body="How are you?")
    away = letter("Out of office", "Auto-Submitted: auto-replied", to="x@y.example", sender=BOB)
    reports = (bounce(ANN, to=mailbox.path(ANN)), full, complaint(BOB), wish, strange, away)
    await mailbox.take(*reports)
    found = await told(mailbox)
    assert [(one["report"], one["heard"], one["suppressed"], one["kept"]) for one in found] == [
        ("r1", "dead", "all", False),
        ("r3", "complaint", None, False),
        ("r4", "unsubscribe", "purpose:offers", False),
        ("r5", "other", None, True),
    ]
    assert (found[0]["stream"], found[0]["decision"]) == ("offers", ID)
    assert "people.example" not in str(found)
    await mailbox.take(*reports[:3])
    assert await told(mailbox) == found, "a repeated report is not news"


async def test_a_crash_before_the_note_causes_one_event(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = mailbox.store.log_events

    async def tell_and_die(events: Sequence[NewEvent]) -> None:
        await tell(events)
        raise KeyboardInterrupt

    dead = bounce(ANN, to=mailbox.path(ANN))
    mailbox.actor = replace(mailbox.actor, tells=True)
    with monkeypatch.context() as dying:
        dying.setattr(mailbox.store, "log_events", tell_and_die)
        with pytest.raises(KeyboardInterrupt):
            await mailbox.take(dead)
    mailbox.number = 0
    await mailbox.take(dead)
    assert [one["heard"] for one in await told(mailbox)] == ["dead"]


def test_nothing_is_logged_when_no_webhook_wants_it() -> None:
    hook = WebhookSettings("crm", "", Path())
    assert not wants_feedback([hook])


class HeardBy:
    """A breaker that only records what it is told."""

    def __init__(self) -> None:
        self.heard_of: list[tuple[str, str, str, str]] = []

    async def heard(self, kind: Feedback, stream: str, id: str, person: str) -> bool:
        self.heard_of.append((kind, stream, id, person))
        return True


async def test_the_breaker_counts_only_reports_proven_by_a_token(mailbox: Mailbox) -> None:
    breaker = HeardBy()
    mailbox.actor = replace(mailbox.actor, breaker=cast(Breaker, breaker))
    path = mailbox.path(ANN)
    spam = bounce(ANN, to=path, status="5.7.1", said="550 5.7.1 rejected as spam")
    full = bounce(ANN, to=path, status="5.2.2", said="552 5.2.2 mailbox full")
    policy = bounce(ANN, to=path, status="5.7.1", said="550 5.7.1 blocked by our policy")
    angry = complaint("", f"Return-Path: <{path}>", f"To: {ANN}")
    wish = letter(f"unsubscribe {mailbox.token(ANN)}", to=f"stop@{DOMAIN}", sender=ANN)
    proven = bounce(ANN, to=path), spam, policy, angry, wish
    await mailbox.take(*proven, full, complaint(ANN), bounce(BOB))
    kinds = "dead_address", "block", "block", "complaint", "unsubscribe"
    assert breaker.heard_of == [(kind, "offers", ID, ANN) for kind in kinds]


async def test_an_erasure_finds_reports_about_the_person(mailbox: Mailbox) -> None:
    answer = letter("Out of office", to=mailbox.path(ANN), sender=ANN)
    await mailbox.take(bounce(ANN), answer, complaint(BOB))
    assert sorted(await mailbox.log.forget(ANN)) == ["r1", "r2"]


async def test_unsubscribe_mails_are_kept_longer_than_other_reports(mailbox: Mailbox) -> None:
    dead = bounce(ANN, to=mailbox.path(ANN))
    wish = letter(f"unsubscribe {mailbox.token(BOB)}", to=f"stop@{DOMAIN}", sender=BOB)
    await mailbox.take(dead, wish)
    await mailbox.log.purge(NOW + timedelta(days=1))
    done = await mailbox.take(dead, wish)
    assert [len(each.news) for each in done] == [1, 0]


async def test_mail_without_a_meaning_is_kept_for_a_person(mailbox: Mailbox) -> None:
    strange = letter("Hello", to=mailbox.path(ANN), sender=BOB, body="How are you?")
    away = letter("Out of office", "Auto-Submitted: auto-replied", to="x@y.example", sender=BOB)
    await mailbox.take(strange, away, b"", b"\xff\0\r\n" * 1000)
    await mailbox.take(b"Received: again\r\n" + strange)
    assert [one.id for one in await mailbox.log.kept()] == ["r1", "r3", "r4"]
    assert await mailbox.log.totals() == {
        ("other", "offers"): 1,
        ("auto_reply", "unknown"): 1,
        ("other", "unknown"): 2,
    }
    assert await mailbox.log.due(NOW, 9) == [], "the application gets bounces but no letters"
