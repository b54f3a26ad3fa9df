"""Messages with some recipients refused only at the end of data: `on_mixed`."""

import re
from collections.abc import Callable
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest

from tests.kit.audit import outcome, records, relayed
from tests.kit.messages import marketing
from tests.kit.ports import wait_for
from tests.kit.relay import RelayProcess
from tests.kit.store import address
from tests.kit.upstream import At, Close, FakeUpstream, Reply

StartFilled = Callable[..., RelayProcess]

SPLIT = {"policy": {"on_mixed": "split"}}
MIXED = (address("consent"), address("withdrawn"), address("customer"), address("nothing"))
SENDER = "News.Desk@shop.example"


@pytest.fixture(scope="module")
def refusing(mta: FakeUpstream, filled: StartFilled) -> RelayProcess:
    return filled(mta.address)


@pytest.fixture(scope="module")
def split_mta() -> Any:
    with FakeUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def splitting_relay(split_mta: FakeUpstream, filled: StartFilled) -> RelayProcess:
    return filled(split_mta.address, SPLIT)


@pytest.fixture
def splitting(splitting_relay: RelayProcess, split_mta: FakeUpstream) -> Any:
    """The splitting relay; its upstream starts empty and without behaviours."""
    split_mta.begin()
    yield splitting_relay
    split_mta.behaviours.clear()


def test_refuse_mails_nobody_and_names_the_refused(
    refusing: RelayProcess, mta: FakeUpstream
) -> None:
    code, text = refusing.send(marketing(), *MIXED, sender=SENDER)
    assert code == 550
    assert re.fullmatch(
        r"5\.7\.1 refused: <withdrawn@people\.example> consent_withdrawn, "
        r"<nothing@people\.example> consent_missing \(stream offers\) id=\w{26}",
        text,
    )
    assert mta.messages == []
    (entry,) = [e for e in records(refusing) if e.decided.id == text.partition("id=")[2]]
    assert not entry.decided.relayed
    message = entry.decided.decision.message
    assert message is not None
    assert (message.action, message.reason) == ("refuse", "recipients_refused")
    assert [r.verdict.action for r in entry.decided.recipients] == [
        "allow",
        "refuse",
        "allow",
        "refuse",
    ]


def test_split_delivers_to_permitted_recipients_and_tells_the_sender(
    splitting: RelayProcess, split_mta: FakeUpstream
) -> None:
    mail = marketing(subject="Winter", message_id="<split-1@shop.example>")
    code, text = splitting.send(mail, *MIXED, sender=SENDER)
    assert (code, text) == (250, "2.0.0 queued as FAKE")
    notice, copy = split_mta.messages
    assert copy.sender == SENDER
    assert copy.recipients == (address("consent"), address("customer"))
    assert copy.data.endswith(mail)
    assert (notice.sender, notice.recipients) == ("", (SENDER,))
    check_notice(notice.data)
    (entry,) = [
        e for e in relayed(records(splitting)) if e.decided.message_id == "<split-1@shop.example>"
    ]
    reasons = [r.verdict.reason for r in entry.decided.recipients]
    assert reasons == ["none", "consent_withdrawn", "none", "consent_missing"]


def check_notice(data: bytes) -> None:
    """Check it against RFC 3464 with a parser that is not ours."""
    notice = message_from_bytes(data, _class=EmailMessage, policy=policy.SMTP)
    assert notice.defects == []
    assert notice["To"].addresses[0].addr_spec == SENDER
    assert notice["Auto-Submitted"] == "auto-replied"
    assert notice.get_content_type() == "multipart/report"
    assert notice.get_param("report-type") == "delivery-status"
    text, status, headers = notice.iter_parts()
    assert "withdrawn@people.example" in text.get_content()
    assert status.get_content_type() == "message/delivery-status"
    parts: Any = status.get_payload()
    about, *groups = parts
    assert about["Reporting-MTA"] == "dns; relay.example"
    assert [(g["Final-Recipient"], g["Action"], g["Status"]) for g in groups] == [
        ("rfc822; withdrawn@people.example", "failed", "5.7.1"),
        ("rfc822; nothing@people.example", "failed", "5.7.1"),
    ]
    assert "550 5.7.1 <nothing@people.example> refused: consent_missing" in groups[1][
        "Diagnostic-Code"
    ].replace("\r\n", "")
    assert headers.get_content_type() == "text/rfc822-headers"
    assert "Message-ID: <split-1@shop.example>" in headers.get_content()


def test_split_falls_back_to_refusing_if_nobody_can_be_told(
    splitting: RelayProcess, split_mta: FakeUpstream
) -> None:
    code, text = splitting.send(marketing(), *MIXED, sender="")
    assert code == 550
    assert "<withdrawn@people.example> consent_withdrawn, " in text
    assert split_mta.messages == []


def test_split_refuses_when_nobody_is_left(
    splitting: RelayProcess, split_mta: FakeUpstream
) -> None:
    code, text = splitting.send(marketing(), address("withdrawn"), address("nothing"))
    assert code == 550
    assert "<withdrawn@people.example> consent_withdrawn, " in text
    assert split_mta.messages == []


@pytest.mark.parametrize(
    ("trouble", "answer"),
    [
        ([At("end", Reply("550 5.7.1 no notices here"), nth=1)], 550),
        ([At("end", Reply("452 4.3.1 full"), nth=1)], 451),
        ([At("end", Close(), nth=1)], 451),
        ([At("data", Close(), nth=nth) for nth in (1, 2)], 451),  # the lost connection is replaced
        ([At("data", Reply("451 4.3.0 not now"), nth=1)], 451),
    ],
    ids=["end-550", "end-452", "end-closed", "data-closed", "data-451"],
)
def test_split_mails_nobody_if_the_notice_is_not_accepted(
    splitting: RelayProcess, split_mta: FakeUpstream, trouble: list[At], answer: int
) -> None:
    """If it never will be, the whole message is refused."""
    split_mta.begin(*trouble)
    before = len(records(splitting))
    code, text = splitting.send(marketing(), *MIXED, sender=SENDER)
    assert code == answer
    assert ("consent_withdrawn" in text) is (answer == 550)
    assert split_mta.messages == []

    def outcomes() -> list[int | None]:
        found = records(splitting)[before:]
        return [outcome(each) for each in found if each.decided.stage == "data"]

    wait_for(lambda: answer in outcomes(), "the record of it")
    code, _ = splitting.send(marketing(), *MIXED, sender=SENDER)
    assert code == 250
    assert [m.sender for m in split_mta.messages] == ["", SENDER]
