"""The proof that the evidence names for a decision is the one that the decision rests on."""

from msgspec.structs import replace

from smtpproxy.events import JudgedRecipient
from smtpproxy.evidence.gather import proof_of
from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import Action, Decision, Evidence, RecipientFacts, Transaction
from smtpproxy.policy.rulebooks import builtin
from smtpproxy.sinks.audit.reader import Record
from tests.kit.journal import Clock, decided
from tests.policy.cases import AGREED, COLLECTED, NOW, OFFERS, PERSON


def test_of_two_acts_of_one_moment_the_one_that_the_rulebook_counted() -> None:
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
