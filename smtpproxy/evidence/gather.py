"""Gathers everything known about one address, and returns it as objects for JSON."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from smtpproxy.events import JudgedRecipient, picked
from smtpproxy.policy.decide import decisive
from smtpproxy.policy.model import (
    NO_FACTS,
    Action,
    Basis,
    Collection,
    ConsentAct,
    Contact,
    Purchase,
    Rulebook,
    Suppression,
    TrackingPixels,
    collections,
)
from smtpproxy.policy.rules import RecipientCase
from smtpproxy.policy.rules.bases import confirmed_request, newest_act
from smtpproxy.policy.rules.recipient import TRACKING, agreed_to_tracking
from smtpproxy.settings import BrandSettings, ControllerSettings, RetentionSettings, Settings
from smtpproxy.sinks.audit.chain import Head, Report
from smtpproxy.sinks.audit.lines import is_erased
from smtpproxy.sinks.audit.reader import Outcome, Record, read, told
from smtpproxy.sinks.audit.verify import State, verify
from smtpproxy.store import decisions_elsewhere, open_feedback, opened_store
from smtpproxy.store.feedback import ReadReport
from smtpproxy.store.journals import IndexQuery, IndexRow
from smtpproxy.store.maildir import Maildir, reports_about
from smtpproxy.store.operations import Rectification, former_addresses
from smtpproxy.store.records import LiftedSuppression
from smtpproxy.store.register import known_relay_id


class Proof(Struct, frozen=True):
    """What a decision was based on, as known at that time."""

    basis: Basis
    consent: ConsentAct | None = None
    request: ConsentAct | None = None  # the request of a double opt-in that `consent` confirmed
    purchases: tuple[Purchase, ...] = ()
    informed_at: datetime | None = None
    occupations: frozenset[str] = frozenset()
    collection: Collection | None = None  # how the address was obtained, and what was said then
    tracking: ConsentAct | None = None  # to reports of openings, if the message has them


MOST_ELSEWHERE = 10_000


class Mailing(Struct, frozen=True):
    """One decision about the address. `proof` is None if it allowed nothing."""

    record: Record
    recipient: JudgedRecipient
    proof: Proof | None

    @property
    def outcome(self) -> Outcome | None:
        """The outcome of the message for this recipient."""
        recipients = self.record.decided.recipients
        index = next(i for i, each in enumerate(recipients) if each is self.recipient)
        return self.record.outcome_of(index)

    @property
    def reports_to(self) -> Sequence[str]:
        """The hosts that learn when this recipient opens the message."""
        return reports_to(self.record, self.recipient)

    @property
    def reply(self) -> str | None:
        """The mail server's reply, unless it may name another recipient of the message."""
        outcome, recipients = self.outcome, self.record.decided.recipients
        reply = outcome.reply if outcome else None
        if reply is None or "@" not in reply or len(recipients) == 1:
            return reply
        each = self.record.outcome.each if self.record.outcome else ()
        # Once a copy is refused, the others get the same reply without being tried.
        return reply if each.count(reply) == 1 else None

    @property
    def fate(self) -> Literal["passed", "refused", "undetermined"]:
        decided, action = self.record.decided, self.recipient.verdict.action
        if not decided.relayed or (action is not Action.ALLOW and not decided.observed):
            return "refused"
        accepted = self.outcome is not None and self.outcome.code < 300
        return "passed" if accepted else "undetermined"

    @property
    def despite(self) -> bool:
        """It passed although the verdict was another, as its stream was only observed."""
        decided = self.record.decided
        verdict = told(decided, self.recipient.verdict)
        return decided.observed and verdict.action is not Action.ALLOW and self.fate == "passed"


class Evidence(Struct, frozen=True):
    """Everything known about an address, and everything sent to it.

    `mailings` include those to former addresses of the contact. `chain` is the state of the audit
    log from the first of them on.
    """

    address: str
    at: datetime
    relay: str
    contact: Contact | None
    suppressions: Sequence[Suppression]
    lifted: Sequence[LiftedSuppression]
    mailings: Sequence[Mailing]
    chain: Report
    rectifications: Sequence[Rectification] = ()
    retention: RetentionSettings = field(default_factory=RetentionSettings)
    controller: ControllerSettings | None = None
    brands: Sequence[BrandSettings] = ()
    elsewhere: Sequence[IndexRow] = ()  # decisions whose records are at other relays
    elsewhere_since: datetime | None = None  # older ones are not known; None: no index
    authors: Mapping[tuple[str, str], str] = {}  # `store.authors`
    reports: Sequence[ReadReport] = ()  # mail that came back

    def state(self, mailing: Mailing) -> State:
        """Return what proves a decision and its outcome, if the audit log was not altered."""
        record, witness = mailing.record, self.chain.witness
        places = [record.place, None if record.outcome is None else record.outcome.place]
        if witness is None or not all(
            place is None or place.n <= self.chain.proven.get(place.slot, 0) for place in places
        ):
            return State.UNPROVEN
        return State.KEPT if witness.kept else State.LOCAL


def evidence(
    settings: Settings,
    address: str,
    *,
    at: datetime,
    kept: Sequence[Head] = (),
    looked: Callable[[int], None] = lambda octets: None,
) -> Evidence:
    """Gather the evidence for a canonical address. `at` is now; blocks while it reads.

    `kept` are anchors of the audit log kept elsewhere.

    Raises StoreUnavailable, OSError.
    """
    folder = settings.server.state_dir / "audit"
    known, authors, reports = asyncio.run(_stored(settings, address))
    contact, suppressions, lifted, rectified = known
    names = tuple(dict.fromkeys([address, *former_addresses(rectified)]))
    mailings = [
        Mailing(record, recipient, proof_of(record, recipient, settings.rulebooks))
        for name in names
        for record in last_decisions(read(folder, recipient=name))
        for recipient in record.decided.recipients
        if recipient.canonical == name
    ]
    mailings.sort(key=lambda mailing: mailing.record.decided.at)
    since = mailings[0].record.decided.at - timedelta(seconds=1) if mailings else None
    wanted = IndexQuery(recipients=names)
    of_others = asyncio.run(decisions_elsewhere(settings, wanted, MOST_ELSEWHERE))
    return Evidence(
        address,
        at,
        settings.server.hostname,
        contact,
        suppressions,
        lifted,
        mailings,
        verify(folder, since=since, kept=kept, progressed=looked, now=at),
        rectified,
        settings.retention,
        settings.controller,
        settings.declared_brands and tuple(settings.brands.values()),
        of_others or (),
        None if of_others is None else settings.retention.indexed_since(at),
        authors,
        reports,
    )


def last_decisions(about_one: Iterable[Record]) -> Iterable[Record]:
    """Return the last decision about somebody on each message: it replaces those before it, which
    never became mail."""
    last: dict[str, Record] = {}
    for record in about_one:
        id, place = record.decided.id, record.place
        before = last[id].place if id in last else None
        if before is None or place is None or place.n > before.n:
            last[id] = record
    return last.values()


_Known = tuple[
    Contact | None, Sequence[Suppression], Sequence[LiftedSuppression], Sequence[Rectification]
]


async def _stored(
    settings: Settings, address: str
) -> tuple[_Known, Mapping[tuple[str, str], str], Sequence[ReadReport]]:
    async with opened_store(settings, read_only=True) as store:
        known = (
            await store.contact(address),
            await store.suppressions(address),
            await store.lifted_suppressions(address),
            await store.rectifications(address),
        )
        authors = await store.authors(address)
    mailbox = known_relay_id(settings.server.state_dir) or ""
    with closing(open_feedback(settings.store, mailbox)) as log:
        reports = await reports_about(log, Maildir(settings.feedback_dir), address)
    return known, authors, reports


def reports_to(record: Record, recipient: JudgedRecipient) -> Sequence[str]:
    """Return the hosts of a message's tracking pixels, unless they may have been removed.

    They were if the recipient did not agree, or anybody else who got the same copy.
    """
    decided = record.decided
    content = decided.features.content if decided.features else None
    if content is None or not decided.relayed or recipient.verdict.action is not Action.ALLOW:
        return ()
    strips = decided.decision.stream.tracking_pixels is TrackingPixels.STRIP
    own_copy = record.outcome is not None and record.outcome.each
    readers = (recipient,) if own_copy else decided.recipients
    unconsented = any(each.verdict.unconsented_pixels for each in readers)
    if strips and unconsented and not decided.observed:
        return ()
    return [pixel.host for pixel in content.pixels]


def proof_of(
    record: Record, recipient: JudgedRecipient, rulebooks: Mapping[str, Rulebook]
) -> Proof | None:
    """Return the recorded facts that support the verdict's basis."""
    basis = recipient.verdict.basis
    if basis is None:
        return None
    stream = record.decided.decision.stream
    facts = record.decided.facts.get(recipient.canonical, NO_FACTS)
    name = record.decided.decision.rulebook
    rulebook = rulebooks.get(name) or Rulebook(name)
    whole = RecipientCase(recipient.canonical, stream, facts, rulebook, record.decided.at)
    case, _ = decisive(whole, record.decided.features)
    contact = case.facts.contact
    if contact is None:
        return Proof(basis)
    # The time of the last click is left out: it would make a proof for each message.
    way = msgspec.structs.replace(collections(contact)[0], last_activity_at=None)
    tracked = None
    if reports_to(record, recipient) and agreed_to_tracking(case):
        tracked = newest_act(contact, TRACKING, rulebook)
    if basis is Basis.TRANSACTIONAL:
        return Proof(basis, tracking=tracked)
    if basis is Basis.CONSENT:
        act = newest_act(contact, stream.purpose, rulebook)
        request = confirmed_request(contact.acts, act) if act else None
        return Proof(basis, act, request, collection=way, tracking=tracked)
    if basis is Basis.GENERIC_ADDRESS:
        return Proof(basis, collection=way, tracking=tracked)
    return Proof(
        basis,
        collection=way,
        tracking=tracked,
        purchases=contact.purchases if basis is Basis.EXISTING_CUSTOMER else (),
        informed_at=contact.informed_at,
        occupations=contact.occupations if basis is Basis.PROFESSIONAL else frozenset(),
    )


def record_object(record: Record, state: State | None = None) -> dict[str, Any]:
    """Return everything on record about one decision. `state` is that of its seal, if known."""
    decided, message = record.decided, record.decided.decision.message
    outcome, place = record.outcome, record.place
    return {
        **picked(decided, "id", "at", "stage"),
        **picked(decided.client, "listener", "peer", "helo", "login", "queue_id"),
        "mail_from": decided.reverse_path,
        **picked(decided, "message_id", "subject"),
        "from": decided.header_from,
        "source_announced": decided.features.source_statement if decided.features else None,
        "size": decided.size,
        "stream": decided.decision.stream.name,
        "rulebook": decided.decision.rulebook,
        **picked(decided, "observed", "undecided"),
        "message": message and {"verdict": message.action, "reason": message.reason},
        "recipients": [
            {
                "address": entry.address,
                "verdict": entry.verdict.action,
                **picked(entry.verdict, "reason", "basis", "rule", "detail"),
                "facts": decided.facts.get(entry.canonical),
                "erased": is_erased(entry),
                **({"upstream": outcome.each[index]} if outcome and outcome.each else {}),
            }
            for index, entry in enumerate(decided.recipients)
        ],
        "relayed": decided.relayed,
        "upstream": outcome and picked(outcome, "at", "code", "reply"),
        "proof": place
        and {
            "file": place.file,
            "row": place.n,
            "hash": place.hash,
            **({} if state is None else {"state": state}),
        },
    }


def evidence_object(evidence: Evidence) -> dict[str, Any]:
    """Return the whole evidence. It names no other recipient of the messages."""
    return {
        **picked(evidence, "address", "at", "relay", "controller"),
        "retention": _retention_object(evidence.retention),
        **picked(evidence, "contact", "suppressions"),
        "suppressed_by": [
            {"scope": scope, "origin": origin, "program": program}
            for (scope, origin), program in evidence.authors.items()
        ],
        "lifted_suppressions": evidence.lifted,
        "rectifications": evidence.rectifications,
        "reports": [picked(one, "id", "at", "kind") for one in evidence.reports],
        "decisions": [_mailing_object(mailing, evidence) for mailing in evidence.mailings],
        "decisions_elsewhere": [
            {
                **picked(one, "id", "at", "stream", "verdict", "reason"),
                "relay": one.host,
                "file": one.file,
                "row": one.line,
            }
            for one in evidence.elsewhere
        ],
        "decisions_elsewhere_since": evidence.elsewhere_since,
        "audit_log": report_object(evidence.chain),
    }


def _retention_object(of: RetentionSettings) -> dict[str, str | None]:
    names = ("prospects", "customers", "suppressions", "lifted_suppressions", "audit", "reports")
    periods = {name: getattr(of, name) for name in names}
    return {name: None if period is None else str(period) for name, period in periods.items()}


def _mailing_object(mailing: Mailing, evidence: Evidence) -> dict[str, Any]:
    whole = record_object(mailing.record, evidence.state(mailing))
    recipients = mailing.record.decided.recipients
    index = next(i for i, each in enumerate(recipients) if each is mailing.recipient)
    outcome = mailing.outcome
    upstream = outcome and {"at": outcome.at, "code": outcome.code, "reply": mailing.reply}
    others = {
        "other_recipients": len(recipients) - 1,
        "based_on": mailing.proof,
        "reports_opening_to": mailing.reports_to,
    }
    own = whole["recipients"][index]
    if "upstream" in own:
        own = {**own, "upstream": mailing.reply}
    return {**whole, "recipients": [own], "upstream": upstream, **others}


def report_object(report: Report) -> dict[str, Any]:
    """Return the result of verifying an audit log."""
    return {
        "sound": not report.wrong,
        **picked(report, "wrong", "witness"),
        "proven": {str(slot): n for slot, n in report.proven.items()},
        **picked(report, "unproven", "files", "lines", "decisions", "erased", "anchors"),
        "compared": report.compared,
        "heads": {str(slot): {"n": h.n, "hash": h.hash} for slot, h in report.heads.items()},
        "counts": {kind.value: count for kind, count in report.counts.items()},
        "findings": [
            {
                "kind": finding.kind,
                "wrong": finding.kind.wrong,
                **picked(finding, "file", "line"),
                "row": finding.n,
                **picked(finding, "id", "what", "meaning"),
            }
            for finding in report.findings
        ],
    }
