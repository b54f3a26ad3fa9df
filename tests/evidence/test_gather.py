"""The proof given for a decision is the one the decision rests on."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from smtpproxy.events import JudgedRecipient
from smtpproxy.evidence.gather import Evidence as Gathered
from smtpproxy.evidence.gather import Mailing, evidence_object, last_decisions, proof_of
from smtpproxy.evidence.writing import subject
from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import (
    Action,
    Basis,
    Decision,
    Evidence,
    Purchase,
    Reason,
    RecipientFacts,
    TrackingPixels,
    Transaction,
    Verdict,
)
from smtpproxy.policy.rulebooks import builtin
from smtpproxy.sinks.audit.chain import Report, Witness
from smtpproxy.sinks.audit.reader import Outcome, Place, Record, read
from smtpproxy.sinks.audit.verify import State
from tests.kit.journal import Clock, decided, journal
from tests.kit.traffic import ALLOWED
from tests.policy.cases import AGREED, COLLECTED, NOW, OFFERS, PERSON, SUBSCRIBER
from tests.policy.test_tracking import AGREED as TRACKING
from tests.policy.test_tracking import TRACKED

GIVEN = Decision(OFFERS, "fr", ())


def test_of_two_simultaneous_acts_the_one_that_counted_is_given() -> None:
    book = builtin("eu-strict")
    page = replace(AGREED, method="signed_form", evidence=Evidence("form v3", form="the till"))
    acts = (page, replace(page, evidence=Evidence("form v3")))
    person = replace(PERSON, last_activity_at=COLLECTED, acts=acts)
    facts = {person.address: RecipientFacts(contact=person)}
    stream = replace(OFFERS, rulebook=book.name)
    (verdict,) = judge(Transaction((stream,), (person.address,)), facts, book, NOW).recipients
    assert verdict.action is Action.ALLOW
    recipient = JudgedRecipient(person.address, person.address, verdict)
    entry = replace(
        decided(Clock(), recipients=(recipient,)),
        at=NOW,
        decision=Decision(stream, book.name, (verdict,)),
        facts=facts,
    )
    proof = proof_of(Record(entry), recipient, {book.name: book})
    assert proof is not None
    assert proof.consent == page


@pytest.mark.parametrize(
    ("fate", "agreed", "observed", "hosts"),
    [
        ("refuse", True, False, ["t.example"]),
        ("strip", True, False, ["t.example"]),
        ("strip", False, False, []),
        ("strip", False, True, ["t.example"]),
        ("observe", False, False, ["t.example"]),
    ],
)
def test_who_learns_of_openings_and_by_which_consent(
    fate: str, agreed: bool, observed: bool, hosts: list[str]
) -> None:
    book = builtin("fr")
    stream = replace(OFFERS, tracking_pixels=TrackingPixels(fate))
    person = TRACKING if agreed else SUBSCRIBER
    facts = {person.address: RecipientFacts(contact=person)}
    asked = Transaction((stream,), (person.address,), message=TRACKED)
    (verdict,) = judge(asked, facts, book, NOW).recipients
    recipient = JudgedRecipient(person.address, person.address, verdict)
    entry = replace(
        decided(Clock(), recipients=(recipient,), observed=observed, features=TRACKED),
        at=NOW,
        decision=Decision(stream, book.name, (verdict,)),
        facts=facts,
    )
    proof = proof_of(Record(entry), recipient, {book.name: book})
    assert proof is not None
    assert (proof.tracking is not None) == agreed
    mailing = Mailing(Record(entry), recipient, proof)
    assert list(mailing.reports_to) == hosts
    assert list(subject(entry, mailing.reports_to, "fr"))[1:] == [
        f"Signale son ouverture à\u202f: {host}" for host in hosts
    ]


@pytest.mark.parametrize(
    ("own_copies", "hosts"), [(True, (["t.example"], [])), (False, ([], [])), (None, ([], []))]
)
def test_pixels_removed_for_another_recipient_remain_in_a_separate_copy(
    own_copies: bool | None, hosts: tuple[list[str], list[str]]
) -> None:
    """None means that the relay died before recording the upstream's answer."""
    book = builtin("fr")
    stream = replace(OFFERS, tracking_pixels=TrackingPixels.STRIP)
    people = [replace(TRACKING, address="a@example.org"), SUBSCRIBER]
    addresses = tuple(person.address for person in people)
    facts = {person.address: RecipientFacts(contact=person) for person in people}
    verdicts = judge(Transaction((stream,), addresses, message=TRACKED), facts, book, NOW)
    recipients = tuple(map(JudgedRecipient, addresses, addresses, verdicts.recipients))
    entry = replace(
        decided(Clock(), recipients=recipients, features=TRACKED),
        at=NOW,
        decision=Decision(stream, book.name, verdicts.recipients),
        facts=facts,
    )
    each = ("250 2.0.0 ok",) * 2 if own_copies else ()
    outcome = None if own_copies is None else Outcome(entry.id, NOW, 250, "250 2.0.0 ok", each)
    record = Record(entry, outcome)
    proofs = [proof_of(record, recipient, {book.name: book}) for recipient in recipients]
    assert (
        tuple(
            list(Mailing(record, recipient, proof).reports_to)
            for recipient, proof in zip(recipients, proofs, strict=True)
        )
        == hosts
    )
    assert [proof is not None and proof.tracking is not None for proof in proofs] == [
        bool(found) for found in hosts
    ]


def test_an_answer_about_another_recipients_copy_does_not_reveal_them() -> None:
    """After a refused first copy nobody else is tried, and its answer is recorded for all."""
    full = "552 5.2.2 <ann@people.example>: mailbox full"
    people = [JudgedRecipient(f"{n}@people.example", f"{n}@people.example", ALLOWED) for n in "ab"]
    for each, told in (((full, full), None), ((full, "550 <b@x> no"), "550 <b@x> no")):
        entry = decided(Clock(), recipients=tuple(people))
        outcome = Outcome(entry.id, NOW, 552, full, each)
        about = Mailing(Record(entry, outcome, Place("f", 7, "c" * 64)), people[1], None)
        found = Gathered(
            people[1].address, NOW, "relay.example", None, (), (), [about], Report(lines=1, files=1)
        )
        (shown,) = evidence_object(found)["decisions"]
        assert "ann@" not in str(shown)
        assert shown["upstream"]["reply"] == shown["recipients"][0]["upstream"] == told


async def test_a_permission_replaced_before_sending_is_not_a_mailing(
    tmp_path: Path,
) -> None:
    clock, refused = Clock(), Verdict(Action.REFUSE, Reason.SUPPRESSED_COMPLAINT)
    log = journal(tmp_path, clock)
    first = decided(clock, "a@b.example")
    person = JudgedRecipient("a@b.example", "a@b.example", refused)
    await log.commit(first)
    await log.commit(replace(first, recipients=(person,), relayed=False))
    await log.commit(decided(clock, "a@b.example"))
    log.close()
    found = last_decisions(read(tmp_path, recipient="a@b.example"))
    actions = [record.decided.recipients[0].verdict.action for record in found]
    assert sorted(actions) == [Action.ALLOW, Action.REFUSE]


@pytest.mark.parametrize(
    ("basis", "has"),
    [
        (Basis.CONSENT, {"consent", "collection"}),
        (Basis.EXISTING_CUSTOMER, {"collection", "purchases", "informed_at"}),
        (Basis.PROFESSIONAL, {"collection", "occupations", "informed_at"}),
        (Basis.CHARITY, {"collection", "informed_at"}),
        (Basis.GENERIC_ADDRESS, {"collection"}),
        (Basis.TRANSACTIONAL, set()),
        (None, None),
    ],
)
def test_a_proof_holds_what_its_basis_rests_on(basis: Basis | None, has: set[str] | None) -> None:
    person = replace(
        SUBSCRIBER, purchases=(Purchase("shoes", NOW),), occupations=frozenset({"law"})
    )
    verdict = replace(ALLOWED, basis=basis)
    recipient = JudgedRecipient(person.address, person.address, verdict)
    facts = {person.address: RecipientFacts(contact=person)}
    entry = decided(Clock(), recipients=(recipient,), facts=facts, decision=GIVEN)
    proof = proof_of(Record(entry), recipient, {})
    assert (proof and {name for name in proof.__struct_fields__ if getattr(proof, name)}) == (
        has if has is None else {*has, "basis"}
    )


@pytest.mark.parametrize(
    ("witness", "proven", "state"),
    [
        (None, 8, State.UNPROVEN),
        (Witness(1, NOW, kept=False), 8, State.LOCAL),
        (Witness(1, NOW, kept=True), 8, State.KEPT),
        (Witness(1, NOW, kept=True), 7, State.UNPROVEN),
    ],
)
def test_a_decision_is_proven_with_its_outcome(
    witness: Witness | None, proven: int, state: State
) -> None:
    entry = decided(Clock())
    places = [Place("f-0.ndjson", n, "c" * 64) for n in (7, 8)]
    record = Record(entry, Outcome(entry.id, NOW, 250, "250 ok", place=places[1]), places[0])
    about = Mailing(record, entry.recipients[0], None)
    chain = Report(witness=witness, proven={0: proven})
    found = Gathered("a@b.example", NOW, "relay.example", None, (), (), [about], chain)
    assert found.state(about) is state
