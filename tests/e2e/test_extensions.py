"""What clients use beyond plain SMTP: DSN, BDAT, LMTP, PRDR, refuse_at."""

import email
import smtplib
import socket
from collections.abc import Callable
from email.message import Message
from typing import Any, cast

import pytest

from tests.kit.messages import marketing
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK
from tests.kit.processes import run
from tests.kit.relay import STREAMS, RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import KEYWORDS, FakeUpstream

SUBSCRIBER, OTHER, STRANGER = address("consent"), address("customer"), address("nothing")
SENDER = "news@shop.example"
NO_DSN = tuple(word for word in KEYWORDS if word != "DSN")


def _config(**more: Any) -> dict[str, Any]:
    at_data = [{**s, "refuse_at": "data"} if s["name"] == "b2b" else s for s in STREAMS]
    return {
        "stream": at_data,
        "listener": [
            listener("apps", "offers", default="offers"),
            listener("local", "offers", "receipts", protocol="lmtp"),
            listener("late", "b2b", default="b2b"),
            listener("free", "offers", "receipts"),
        ],
        **more,
    }


def _ask(relay: RelayProcess, mail: bytes, rcpts: list[tuple[str, str]], *options: str) -> bytes:
    """Send through the listener whose stream the header chooses; return the last reply."""
    with smtplib.SMTP(LOOPBACK, relay.port("free"), timeout=30) as client:
        client.ehlo("client.example")
        client.mail(SENDER, options)
        for rcpt, parameters in rcpts:
            assert client.rcpt(rcpt, [parameters] if parameters else [])[0] == 250
        return client.data(mail)[1]


def _groups(notice: bytes) -> list[Message]:
    message = email.message_from_bytes(notice)
    assert message.get_content_type() == "multipart/report"
    parts = cast(list[Message], message.get_payload())
    return cast(list[Message], parts[1].get_payload())


@pytest.fixture(scope="module")
def knowing(filled: Callable[..., RelayProcess], mta: FakeUpstream) -> RelayProcess:
    return filled(mta.address, _config(policy={"on_mixed": "split"}))


def test_dsn_parameters_are_relayed_unchanged(knowing: RelayProcess, mta: FakeUpstream) -> None:
    mail = marketing(stream="offers")
    parameters = "NOTIFY=success,DELAY ORCPT=rfc822;Jeanne+2Bx@P.example"
    _ask(knowing, mail, [(SUBSCRIBER, parameters)], "RET=hdrs", "ENVID=QQ+2B7")
    asked = [line for _, line in mta.commands if line.startswith(("MAIL", "RCPT"))][-2:]
    assert asked[0].endswith(" RET=hdrs ENVID=QQ+2B7")
    assert asked[1] == f"RCPT TO:<{SUBSCRIBER}> {parameters}"


def test_a_notice_of_refusal_carries_the_senders_dsn_parameters(
    knowing: RelayProcess, mta: FakeUpstream
) -> None:
    before = len(mta.messages)
    stranger = (STRANGER, "NOTIFY=FAILURE ORCPT=rfc822;Nemo@People.example")
    _ask(knowing, marketing(stream="offers"), [(SUBSCRIBER, ""), stranger], "ENVID=QQ+2B7")
    notice, mail = mta.messages[before:]
    assert (notice.sender, notice.recipients) == ("", (SENDER,))
    about, recipient = _groups(notice.data)
    assert about["Original-Envelope-Id"] == "QQ+7"
    assert recipient["Original-Recipient"] == "rfc822; Nemo@People.example"
    assert (recipient["Action"], recipient["Status"]) == ("failed", "5.7.1")
    assert mail.recipients == (SUBSCRIBER,)
    assert [line for _, line in mta.commands if SENDER in line and "RCPT" in line][-1].endswith(
        "NOTIFY=NEVER"
    )


@pytest.mark.parametrize("wish", ["NOTIFY=NEVER", "NOTIFY=SUCCESS"])
def test_no_recipient_is_dropped_silently(
    knowing: RelayProcess, mta: FakeUpstream, wish: str
) -> None:
    before = len(mta.messages)
    rcpts = [(SUBSCRIBER, ""), (STRANGER, wish)]
    reply = _ask(knowing, marketing(stream="offers"), rcpts)
    assert b"refused: consent_missing" in reply
    assert mta.messages[before:] == []


def test_without_dsn_at_the_upstream_the_sender_is_told_that_it_was_relayed(
    filled: Callable[..., RelayProcess],
) -> None:
    """The upstream gets no DSN parameters; a sender who asked for success is told."""
    with FakeUpstream(keywords=NO_DSN) as mta:
        relay = filled(mta.address, _config())
        rcpts = [(SUBSCRIBER, "NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;J@x.example"), (OTHER, "")]
        _ask(relay, marketing(stream="offers"), rcpts, "RET=FULL", "ENVID=42")
        mail, notice = mta.wait_messages(2)
        assert mail.recipients == (SUBSCRIBER, OTHER)
        assert not any("NOTIFY" in line or "ENVID" in line for _, line in mta.commands)
        about, recipient = _groups(notice.data)
        assert about["Original-Envelope-Id"] == "42"
        assert recipient["Final-Recipient"] == f"rfc822; {SUBSCRIBER}"
        assert (recipient["Action"], recipient["Status"]) == ("relayed", "2.0.0")


def test_a_client_library_speaks_lmtp(knowing: RelayProcess, mta: FakeUpstream) -> None:
    before = len(mta.messages)
    with smtplib.LMTP(LOOPBACK, knowing.port("local")) as client:
        client.connect(LOOPBACK, knowing.port("local"))
        client.lhlo("client.example") if hasattr(client, "lhlo") else client.ehlo("client.example")
        client.mail(SENDER)
        for rcpt in (SUBSCRIBER, STRANGER):
            assert client.rcpt(rcpt)[0] == 250
        assert client.data(marketing(stream="offers"))[0] == 250
        code, text = client.getreply()
        assert (code, b"consent_missing" in text) == (550, True)
    (mail,) = mta.messages[before:]
    assert mail.recipients == (SUBSCRIBER,)
    assert b"with LMTP id" in mail.data.replace(b"\r\n\t", b" ").replace(b"\r\n ", b" ")


@needs("swaks")
def test_swaks_speaks_lmtp(knowing: RelayProcess, mta: FakeUpstream) -> None:
    before = len(mta.messages)
    done = run(
        "swaks", "--protocol", "LMTP", "--server", f"{LOOPBACK}:{knowing.port('local')}",
        "--from", "orders@shop.example", "--to", SUBSCRIBER,
        "--header", "From: orders@shop.example", "--header", "X-Mail-Stream: receipts",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert len(mta.messages) == before + 1


def test_bdat_chunks_arrive_unchanged(knowing: RelayProcess, mta: FakeUpstream) -> None:
    before = len(mta.messages)
    mail = marketing(stream="offers", body=".dot\r\n" * 3 + "last line without an end")
    with smtplib.SMTP(LOOPBACK, knowing.port("free")) as client:
        client.ehlo("client.example")
        assert client.has_extn("chunking")
        client.mail(SENDER)
        client.rcpt(SUBSCRIBER)
        for piece, last in ((mail[:100], b""), (mail[100:], b" LAST")):
            assert client.sock is not None
            client.sock.sendall(b"BDAT %d%b\r\n%b" % (len(piece), last, piece))
            assert client.getreply()[0] == 250
    (got,) = mta.messages[before:]
    header = mail.partition(b"\r\n\r\n")[2]
    assert got.data.partition(b"\r\n\r\n")[2] == header + (
        b"" if header.endswith(b"\r\n") else b"\r\n"
    )


def test_a_refusal_can_wait_for_the_content(knowing: RelayProcess, mta: FakeUpstream) -> None:
    before = len(mta.messages)
    with smtplib.SMTP(LOOPBACK, knowing.port("late")) as client:
        client.ehlo("client.example")
        client.mail(SENDER)
        assert client.rcpt(STRANGER)[0] == 250
        code, text = client.data(marketing())
        assert (code, b"consent_missing" in text) == (550, True)
    assert mta.messages[before:] == []


def test_limits_are_announced(knowing: RelayProcess) -> None:
    with socket.create_connection((LOOPBACK, knowing.port("apps"))) as connection:
        said = connection.recv(4096)
        connection.sendall(b"EHLO client.example\r\n")
        while b"PRDR" not in said:
            said += connection.recv(4096)
    assert b"250-LIMITS RCPTMAX=1000\r\n" in said
