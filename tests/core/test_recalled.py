"""How a recorded decision is explained, for its message and for each recipient."""

from typing import Any

from msgspec.structs import replace

from smtpproxy.core.explanation import Explanation, recall
from smtpproxy.events import JudgedRecipient
from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import Action, Reason, RecipientFacts, Transaction, Verdict
from smtpproxy.sinks.audit.reader import Outcome, Record
from tests.kit.journal import Clock, decided
from tests.policy.cases import ADDRESS, BOOK, GOOD_MESSAGE, NOW, OFFERS, SUBSCRIBER

FACTS = {ADDRESS: RecipientFacts(contact=SUBSCRIBER)}
STRANGER = "x@y.example"


def told(outcome: Outcome | None = None, message: Any = GOOD_MESSAGE, **over: Any) -> Explanation:
    """Mail a subscriber and a stranger together; with `each`, in separate copies."""
    asked = Transaction((OFFERS,), (ADDRESS, STRANGER), message)
    decision = judge(asked, FACTS, BOOK, NOW)
    people = [
        JudgedRecipient(name, name, verdict)
        for name, verdict in zip(asked.recipients, decision.recipients, strict=True)
    ]
    decision = replace(decision, message=over.pop("verdict", decision.message))
    entry = decided(
        Clock(), at=NOW, facts=FACTS, features=message, decision=decision, recipients=people, **over
    )
    return recall([Record(entry, outcome)], {"fr": BOOK})


def test_a_refused_message_is_explained_step_by_step_with_the_people_not_mailed() -> None:
    found = told(message=replace(GOOD_MESSAGE, unsubscribe_fields=0), relayed=False)
    assert (found.message_trace[-1].rule, found.allowed) == ("unsubscribe_present", False)
    assert found.message_account is not None
    assert found.message_trace[-1].text in found.message_account.happened
    permitted, stranger = found.recipients
    assert "still got nothing" in permitted.account.notes[0]
    assert stranger.account.notes == ()


def test_a_message_that_passed_adds_nothing_to_its_recipients_accounts() -> None:
    found = told()
    assert found.message_trace[-1].outcome == "allow"
    assert found.recipients[0].account.notes == ()
    assert found.source_announced is None


def test_a_message_on_no_stream_is_explained_by_that_alone() -> None:
    nowhere = Verdict(Action.REFUSE, Reason.STREAM_NOT_PERMITTED, rule="stream_choice")
    found = told(verdict=nowhere, relayed=False)
    assert [step.rule for step in found.message_trace] == ["stream_choice"]


def test_each_copy_is_shown_with_its_own_answer() -> None:
    each = ("250 2.0.0 for the subscriber", "")
    found = told(Outcome("id", NOW, 250, "250 2.0.0 relayed to 1 of 2", each))
    notes = [one.account.notes for one in found.recipients]
    assert "250 2.0.0 for the subscriber" in notes[0][0]
    assert not any("for the subscriber" in note for note in notes[1])
    assert told(Outcome("id", NOW, 250, "250 2.0.0 ok")).recipients[0].account.notes == ()
