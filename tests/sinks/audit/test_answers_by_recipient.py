"""The outcome of a message sent as one copy per recipient, on record and in exports."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec.structs import replace

from smtpproxy.cli.audit_export import as_rows
from smtpproxy.events import JudgedRecipient, Relayed
from smtpproxy.evidence.gather import Mailing, record_object
from smtpproxy.policy.model import Action, Reason, Verdict
from smtpproxy.settings import AuditSettings
from smtpproxy.sinks.audit.journal import Journal
from smtpproxy.sinks.audit.lines import Answer
from smtpproxy.sinks.audit.reader import Record, find, read
from tests.sinks.audit.test_format import ALLOWED, AT, MEANT

OTHER = JudgedRecipient("Z@b.example", "z@b.example", ALLOWED)
MESSAGE = replace(
    MEANT,
    recipients=(*MEANT.recipients, OTHER),
    decision=replace(MEANT.decision, recipients=(ALLOWED, ALLOWED)),
)
TAKEN = "250 2.0.0 Ok: queued as 4XYZ"
FAILED = "550 5.1.1 <Z@b.example> unknown"


async def record(folder: Path, *each: str) -> Record:
    journal = Journal(folder, 0, AuditSettings(), now=lambda: AT, new_id=lambda: MEANT.id)
    await journal.commit(MESSAGE)
    reply = "250 2.0.0 relayed to 1 of 2 recipients"
    journal.outcome(Relayed(MEANT.id, "apps", "offers", 250, reply, 4096, 1, each))
    journal.close()
    (found,) = find(folder, MEANT.id)
    return found


async def test_each_recipient_has_its_own_outcome(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    found = await record(tmp_path / "audit", TAKEN, FAILED)
    assert [o and (o.code, o.reply) for o in map(found.outcome_of, (0, 1))] == [
        (250, TAKEN),
        (550, FAILED),
    ]
    assert [entry["upstream"] for entry in record_object(found)["recipients"]] == [TAKEN, FAILED]
    assert [row for row in as_rows(found) if FAILED in row] == list(as_rows(found))[1:]
    failed = Mailing(found, found.decided.recipients[1], None)
    assert failed.outcome is not None
    assert (failed.outcome.code, failed.reply) == (550, FAILED)


async def test_recipients_not_mailed_have_no_outcome(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    found = await record(tmp_path / "audit", TAKEN, "")
    assert found.outcome_of(1) is None
    assert found.outcome is not None


async def test_one_answer_for_all_is_the_outcome_of_each(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    found = await record(tmp_path / "audit")
    assert found.outcome_of(0) is found.outcome_of(1) is found.outcome
    assert "upstream" not in record_object(found)["recipients"][0]


def test_one_answer_for_all_keeps_its_format() -> None:
    answer = Answer(MEANT.id, datetime(2026, 3, 1, 10, tzinfo=UTC), 250, "250 2.0.0 ok")
    assert msgspec.json.encode(answer) == (
        b'{"of":"01KJKB3Q0020CT1R0RZ1H6E7A8","at":"2026-03-01T10:00:00Z","code":250,'
        b'"reply":"250 2.0.0 ok"}'
    )


async def test_an_answer_belongs_to_the_replacing_decision(tmp_path: Path) -> None:
    """Somebody was suppressed while the first decision was being written."""
    folder = tmp_path / "audit"
    folder.mkdir()
    refused = Verdict(Action.REFUSE, Reason.SUPPRESSED_COMPLAINT, rule="suppression")
    first, other = MESSAGE.recipients
    last = replace(
        MESSAGE,
        recipients=(first, replace(other, verdict=refused)),
        decision=replace(MESSAGE.decision, recipients=(ALLOWED, refused)),
    )
    journal = Journal(folder, 0, AuditSettings(), now=lambda: AT, new_id=lambda: MEANT.id)
    await journal.commit(MESSAGE)
    await journal.commit(last)
    journal.outcome(Relayed(MEANT.id, "apps", "offers", 250, TAKEN, 4096, 1))
    journal.close()
    for found in (find(folder, MEANT.id), read(folder), read(folder, recipient=other.canonical)):
        assert [
            (each.decided.recipients[1].verdict.action, each.outcome and each.outcome.code)
            for each in found
        ] == [(Action.ALLOW, None), (Action.REFUSE, 250)]
