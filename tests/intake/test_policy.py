"""The policy intake with a Postfix of the kit: actions, records, failures and limits."""

import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pytest

from smtpproxy.events import (
    Client,
    ConnectionRefused,
    Decided,
    Failed,
    Limited,
    Relayed,
    SenderRefused,
    TransactionEnded,
)
from smtpproxy.policy.model import Action, Basis, Reason
from smtpproxy.sinks.audit.journal import AuditUnavailable
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.streams import StreamEvent
from tests.intake.conftest import Listen
from tests.intake.listening import Intake
from tests.kit.policy import policy_client, request
from tests.kit.ports import wait_for
from tests.kit.relay import STREAMS
from tests.kit.store import address, people

CONSENT = "consent@people.example"
CUSTOMER = "customer@people.example"
WITHDRAWN = "withdrawn@people.example"
COMPLAINED = "complained@people.example"
CERTAIN = {"protocol": "policy", "streams": ["offers"], "default_stream": "offers"}
TROUBLE = "451 4.3.0 temporary_failure"


@pytest.fixture
def intake(listen: Listen) -> Intake:
    return listen(**CERTAIN)


@pytest.fixture
def uncertain(listen: Listen) -> Intake:
    return listen(protocol="policy", streams=["offers", "receipts"], default_stream="offers")


# decisions


def test_a_permitted_recipient_passes_and_is_recorded(intake: Intake) -> None:
    with policy_client(intake.port) as peer:
        peer.mail(sasl_username="shop", queue_id="4XyZ")
        assert peer.rcpt(CONSENT) == "DUNNO"
        assert len(intake.records.decided) == 1  # recorded before the answer
        assert peer.end(CONSENT) == "DUNNO"
    (decided,) = intake.records.decided
    assert decided.client == Client("apps", "192.0.2.9", "client.example", "shop", "4XyZ")
    assert (decided.stage, decided.relayed, decided.observed) == ("rcpt", True, False)
    assert decided.reverse_path == "news@shop.example"
    (recipient,) = decided.recipients
    assert (recipient.verdict.action, recipient.verdict.basis) == (Action.ALLOW, Basis.CONSENT)
    assert decided.facts[CONSENT].contact is not None
    assert intake.of(Decided) == [decided]


def test_permitted_mail_is_counted_at_its_end(intake: Intake) -> None:
    with policy_client(intake.port) as peer:
        peer.rcpt(CONSENT)
        assert peer.end(CONSENT, state="DATA", size="0") == "DUNNO"
        assert intake.of(Relayed) == []
        assert peer.end(CONSENT, size="2345") == "DUNNO"
        peer.mail()
        assert peer.end(WITHDRAWN, size="99").startswith("550 ")
    (told,) = intake.of(Relayed)
    assert (told.stream, told.code, told.size, told.recipients) == ("offers", 250, 2345, 1)
    intake.wait_closed()
    assert len(intake.of(TransactionEnded)) == 2
    assert intake.records.relayed == []  # the outcome is unknown


def test_smtp_gives_the_same_answers_at_rcpt(intake: Intake, listen: Listen) -> None:
    relay = listen(streams=["offers"], default_stream="offers")
    named = [*people(), "complained", "bounced", "unknown"]
    assert len(named) > 12
    with policy_client(intake.port) as peer, relay.client() as client:
        client.greet()
        assert client.say("MAIL FROM:<news@shop.example>").startswith("250 ")
        for name in named:
            reply = client.say(f"RCPT TO:<{address(name)}>").partition(" id=")[0]
            action = peer.rcpt(address(name)).partition(" id=")[0]
            assert action == ("DUNNO" if reply.startswith("250 ") else reply)


def test_a_refused_recipient_gets_the_reason(intake: Intake) -> None:
    with policy_client(intake.port) as peer:
        action = peer.rcpt("Withdrawn@People.Example")
        (decided,) = intake.records.decided
        assert action == (
            "550 5.7.1 <Withdrawn@People.Example> refused: consent_withdrawn"
            f" (stream offers) id={decided.id}"
        )
        assert (decided.stage, decided.relayed) == ("rcpt", False)
        assert peer.rcpt(CONSENT) == "DUNNO"
        assert peer.rcpt(COMPLAINED).startswith("550 5.7.1 <complained@people.example> refused: ")
    assert {d.id for d in intake.records.decided} == {decided.id}  # all about one message


def test_a_paused_stream_defers(listen: Listen) -> None:
    paused = [stream | {"paused": True} for stream in STREAMS]
    intake = listen({"stream": paused}, **CERTAIN)
    with policy_client(intake.port) as peer:
        assert peer.rcpt(CONSENT).startswith(
            "450 4.7.0 <consent@people.example> deferred: stream_paused (stream offers) id="
        )
        assert peer.rcpt(WITHDRAWN).startswith("550 ")


def test_a_pause_and_its_end_take_effect_at_the_next_question(listen: Listen) -> None:
    """No question comes at the end of the message, where a change would be noticed."""
    intake = listen(**CERTAIN)

    def note(action: Literal["paused", "resumed"]) -> None:
        event = StreamEvent(datetime.now(UTC), "stream:offers", action, "person")
        assert intake.call(intake.store.note_stream(event)).result(10)

    with policy_client(intake.port) as peer:
        assert peer.rcpt(CONSENT) == "DUNNO"
        note("paused")
        assert "deferred: stream_paused" in peer.rcpt(CONSENT)
        note("resumed")
        assert peer.rcpt(CONSENT) == "DUNNO"


@pytest.mark.parametrize("path", ["", "x@-.example", "@", "a@b c"])
def test_a_malformed_address_is_refused(intake: Intake, path: str) -> None:
    with policy_client(intake.port) as peer:
        assert peer.rcpt(path) == "553 5.1.3 recipient address cannot be read"
        peer.mail(path or "@")
        assert peer.rcpt(CONSENT) == "553 5.1.7 sender address cannot be read"


def test_addresses_arrive_without_their_quotes(intake: Intake) -> None:
    with policy_client(intake.port) as peer:
        assert peer.rcpt('odd "local\\@people.example').startswith("550 5.7.1 <")
        assert peer.rcpt("josé@people.example").startswith("550 5.7.1 <jos\\x{E9}@")
    odd, unicode = (decided.recipients[0] for decided in intake.records.decided)
    assert odd.address == '"odd \\"local\\\\"@people.example'
    assert unicode.canonical == "josé@people.example"


@pytest.mark.parametrize("state", ["CONNECT", "EHLO", "MAIL", "VRFY", "ETRN", "new", ""])
def test_questions_at_other_stages_pass(intake: Intake, state: str) -> None:
    with policy_client(intake.port) as peer:
        assert peer.ask(protocol_state=state, recipient=WITHDRAWN) == "DUNNO"
    assert intake.records.decided == []


# the choice of stream


def test_while_the_header_may_choose_the_stream_only_common_refusals_hold(
    uncertain: Intake,
) -> None:
    with policy_client(uncertain.port) as peer:
        assert peer.rcpt(WITHDRAWN) == "DUNNO"  # it may be a receipt
        assert uncertain.records.decided == []  # nothing was decided
        assert peer.rcpt(COMPLAINED).startswith("550 5.7.1 ")
    assert len(uncertain.records.decided) == 1


def test_a_sender_rule_settles_the_stream(listen: Listen) -> None:
    rules = [
        {"address": "@shop.example", "streams": ["offers"], "default_stream": "offers"},
        {"address": "orders@shop.example", "streams": ["receipts"], "default_stream": "receipts"},
    ]
    streams = ["offers", "receipts"]
    intake = listen({"sender": rules}, protocol="policy", streams=streams, default_stream="offers")
    with policy_client(intake.port) as peer:
        assert peer.rcpt(WITHDRAWN).startswith("550 5.7.1 ")
        peer.mail("Orders@Shop.example")
        assert peer.rcpt(WITHDRAWN) == "DUNNO"
        peer.mail("else@where.example")
        assert peer.rcpt(WITHDRAWN) == "DUNNO"
    assert [d.decision.stream.name for d in intake.records.decided] == ["offers", "receipts"]


FINGERPRINT = "ab" * 32


@pytest.fixture
def credentials(listen: Listen, tmp_path: Path) -> Intake:
    (tmp_path / "users").touch()
    tables = [
        {"user": "mailer", "streams": ["offers"], "senders": ["@shop.example"]},
        {"certificate": FINGERPRINT, "streams": ["receipts"]},
    ]
    config = {"credential": tables, "auth": {"users": str(tmp_path / "users")}}
    return listen(
        config, protocol="policy", streams=["offers", "receipts"], default_stream="offers"
    )


def test_a_login_at_the_mta_narrows_the_streams(credentials: Intake) -> None:
    with policy_client(credentials.port) as peer:
        peer.mail(sasl_username="mailer")
        assert peer.rcpt(WITHDRAWN).startswith("550 5.7.1 ")
        peer.mail(sasl_username="somebody")
        assert peer.rcpt(WITHDRAWN) == "DUNNO"
        colons = ":".join(FINGERPRINT[i : i + 2] for i in range(0, 64, 2)).upper()
        peer.mail(ccert_fingerprint=colons, ccert_subject="CN=any")
        peer.rcpt(COMPLAINED)
    assert credentials.records.decided[-1].client.login == f"certificate:{FINGERPRINT}"


def test_foreign_senders_are_refused(credentials: Intake) -> None:
    with policy_client(credentials.port) as peer:
        peer.mail("boss@bank.example", sasl_username="mailer")
        assert peer.rcpt(CONSENT) == "550 5.7.1 this client may not send from that address"
        assert peer.end(CONSENT).startswith("550 ")
        peer.mail(sasl_username="mailer")
        assert peer.rcpt(CONSENT) == "DUNNO"
    assert len(credentials.of(SenderRefused)) == 2


# the end of a message: nobody slips through


@pytest.mark.parametrize("state", ["DATA", "END-OF-MESSAGE"])
def test_a_single_recipient_not_asked_about_is_judged_at_the_end(
    intake: Intake, state: str
) -> None:
    with policy_client(intake.port) as peer:
        assert peer.end(WITHDRAWN, state=state).startswith("550 5.7.1 <withdrawn@people.example>")
        peer.mail()
        assert peer.end(CONSENT, state=state) == "DUNNO"
        assert peer.end(CONSENT, state=state) == "DUNNO"
    assert len(intake.records.decided) == 2


def test_several_recipients_are_matched_by_count(intake: Intake) -> None:
    with policy_client(intake.port) as peer:
        for each in (CONSENT, WITHDRAWN, CUSTOMER):
            peer.rcpt(each)
        assert peer.end(CONSENT, CUSTOMER, state="DATA") == "DUNNO"
        assert peer.end(CONSENT, CUSTOMER) == "DUNNO"
        assert peer.end(CONSENT, WITHDRAWN, CUSTOMER) == TROUBLE
    (failed,) = intake.of(Failed)
    assert failed.part == "protocol"
    assert "3 recipients at END-OF-MESSAGE, of whom 2" in failed.error


def test_recipients_of_another_message_do_not_count(intake: Intake) -> None:
    with policy_client(intake.port) as peer:
        peer.rcpt(CONSENT)
        peer.rcpt(CUSTOMER)
        peer.mail()
        assert peer.end(CONSENT, CUSTOMER) == TROUBLE
        peer.mail(instance="")
        peer.rcpt(CONSENT)
        peer.rcpt(CUSTOMER)
        assert peer.end(CONSENT, CUSTOMER) == TROUBLE
        peer.mail()
        assert peer.rcpt(CONSENT) == "DUNNO"
        peer.mail()
        assert peer.end(CONSENT) == "DUNNO", "also judged for this message"
    assert len({decided.id for decided in intake.records.decided}) == 5


# observe mode and failures


def test_observe_mode_passes_everything_and_records_what_it_would_do(listen: Listen) -> None:
    intake = listen({"policy": {"mode": "observe"}}, **CERTAIN)
    with policy_client(intake.port) as peer:
        assert peer.rcpt(WITHDRAWN) == "DUNNO"
        assert peer.end(WITHDRAWN) == "DUNNO"
        (decided,) = intake.records.decided
        assert (decided.observed, decided.relayed) == (True, True)
        assert decided.recipients[0].verdict.reason is Reason.CONSENT_WITHDRAWN
        intake.records.error = AuditUnavailable("disk full")
        assert peer.rcpt(COMPLAINED) == "DUNNO"
    assert [failed.part for failed in intake.of(Failed)] == ["audit"]


def broken(intake: Intake, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    async def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(intake.store, "read", fail)


def test_observed_mail_passes_and_is_counted_when_it_cannot_be_judged(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    intake = listen({"policy": {"mode": "observe"}}, **CERTAIN)
    broken(intake, monkeypatch, StoreUnavailable("locked"))
    with policy_client(intake.port) as peer:
        assert peer.rcpt(CONSENT) == "DUNNO"
    (decided,) = intake.records.decided
    assert (decided.undecided, decided.observed) == (True, True)
    assert decided.recipients[0].verdict.reason is Reason.TEMPORARY_FAILURE


@pytest.mark.parametrize("choice", ["intake", "uncertain"])
def test_a_store_that_does_not_answer_gives_451(
    choice: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    intake: Intake = request.getfixturevalue(choice)
    with monkeypatch.context() as patch, policy_client(intake.port) as peer:
        broken(intake, patch, StoreUnavailable("locked"))
        assert peer.rcpt(CONSENT) == TROUBLE
        patch.undo()
        assert peer.rcpt(CONSENT) == "DUNNO"
        assert peer.end(CONSENT) == "DUNNO"
    assert [failed.part for failed in intake.of(Failed)] == ["store"]


def test_nobody_passes_without_a_record(intake: Intake) -> None:
    with policy_client(intake.port) as peer:
        intake.records.error = AuditUnavailable("disk full")
        assert peer.rcpt(CONSENT) == TROUBLE
        assert peer.rcpt(WITHDRAWN) == TROUBLE
        intake.records.error = None
        assert peer.end(CONSENT) == "DUNNO"
    assert [failed.part for failed in intake.of(Failed)] == ["audit", "audit"]


def test_a_fault_of_the_program_gives_451_and_ends_the_connection(
    intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(intake, monkeypatch, RuntimeError("bug"))
    with policy_client(intake.port) as peer:
        assert peer.rcpt(CONSENT) == TROUBLE
        with pytest.raises(EOFError):
            peer.action()
    assert intake.wait_closed() == ["error"]
    assert [str(error) for error in intake.unexpected] == ["bug"]
    intake.unexpected.clear()


def test_a_malformed_request_ends_the_connection_without_an_answer(intake: Intake) -> None:
    with policy_client(intake.port) as peer:
        assert peer.rcpt(CONSENT) == "DUNNO"
        peer.socket.sendall(b"EHLO client.example\r\n")
        with pytest.raises(EOFError):
            peer.action()
    assert intake.wait_closed() == ["protocol"]
    assert intake.of(Failed)[0].part == "protocol"


# connections


def test_pipelined_requests_are_answered_in_order(intake: Intake) -> None:
    with policy_client(intake.port) as peer:
        recipients = [CONSENT, WITHDRAWN, CUSTOMER] * 30
        peer.socket.sendall(b"".join(request(recipient=each) for each in recipients))
        actions = [peer.action() for _ in recipients]
    assert [action == "DUNNO" for action in actions] == [each != WITHDRAWN for each in recipients]


def test_a_request_sent_octet_by_octet(intake: Intake) -> None:
    with policy_client(intake.port) as peer:
        for octet in request(recipient=WITHDRAWN):
            peer.socket.sendall(bytes([octet]))
        assert peer.action().startswith("550 ")


def test_policy_delegation_over_a_unix_socket(listen: Listen, tmp_path: Path) -> None:
    path = str(tmp_path / "policy")
    intake = listen(**CERTAIN, address=f"unix:{path}")
    with policy_client(path) as peer:
        assert peer.rcpt(WITHDRAWN).startswith("550 5.7.1 ")
    assert intake.wait_closed() == ["eof"]


def test_too_many_recipients_are_deferred(listen: Listen) -> None:
    intake = listen(**CERTAIN, max_recipients=2)
    with policy_client(intake.port) as peer:
        assert [peer.rcpt(each) for each in (CONSENT, CUSTOMER)] == ["DUNNO"] * 2
        assert peer.rcpt(CONSENT) == "452 4.5.3 too many recipients"
        peer.mail()
        assert peer.rcpt(CONSENT) == "DUNNO"
    assert [limited.limit for limited in intake.of(Limited)] == ["recipients"]


def test_too_many_refused_recipients(listen: Listen) -> None:
    intake = listen(**CERTAIN, max_refused_recipients=2)
    with policy_client(intake.port) as peer:
        for each in (WITHDRAWN, "@"):
            assert peer.rcpt(each).startswith("55")
        assert peer.rcpt(CONSENT).startswith("452 4.5.3 too many recipients were refused")
        peer.mail()
        assert peer.rcpt(CONSENT) == "DUNNO"
    assert [limited.limit for limited in intake.of(Limited)] == ["refused_recipients"]


def test_surplus_connections_end_without_an_answer(listen: Listen) -> None:
    intake = listen(**CERTAIN, max_connections=1)
    with policy_client(intake.port) as first, policy_client(intake.port) as second:
        assert first.rcpt(CONSENT) == "DUNNO"
        with pytest.raises(EOFError):
            second.rcpt(CONSENT)
    wait_for(lambda: intake.of(ConnectionRefused), "the refusal")
    assert intake.of(ConnectionRefused)[0].cause == "limit"


def trickle(connection: socket.socket) -> None:
    """Send attributes without end until the other side has gone."""
    for _ in range(100):
        connection.sendall(b"request=smtpd_access_policy\n")
        time.sleep(0.05)


def flood(connection: socket.socket) -> None:
    """Send requests without reading answers until there is no room for more."""
    while True:
        connection.sendall(request(recipient=CONSENT) * 100)


def test_an_endless_request_is_cut_off_and_silence_is_not(listen: Listen) -> None:
    intake = listen(**CERTAIN, command_timeout="300ms", data_timeout="30s")
    with policy_client(intake.port) as idle, policy_client(intake.port) as slow:
        assert idle.rcpt(CONSENT) == "DUNNO"
        with pytest.raises((ConnectionError, TimeoutError)):  # before all of it is sent
            trickle(slow.socket)
        assert intake.wait_closed() == ["timeout"]
        assert idle.rcpt(CONSENT) == "DUNNO"


def test_a_silent_connection_ends_too(listen: Listen) -> None:
    intake = listen(**CERTAIN, data_timeout="300ms")
    with policy_client(intake.port) as peer, pytest.raises(EOFError):
        peer.action()
    assert intake.wait_closed() == ["timeout"]


def test_requests_are_not_read_while_answers_are_left_unread(listen: Listen) -> None:
    intake = listen(**CERTAIN, command_timeout="500ms")
    intake.keep_little()
    with policy_client(intake.port) as peer:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # fills up soon
        peer.socket.settimeout(1)
        with pytest.raises((ConnectionError, TimeoutError)):  # reset, or no room for more
            flood(peer.socket)
        assert intake.wait_closed(1) in (["timeout"], ["error"])


def test_draining_ends_idle_connections(intake: Intake) -> None:
    with policy_client(intake.port) as peer:
        assert peer.rcpt(CONSENT) == "DUNNO"
        intake.call(intake.door.drain()).result(10)
        with pytest.raises(EOFError):
            peer.action()
    assert intake.wait_closed() == ["shutdown"]
