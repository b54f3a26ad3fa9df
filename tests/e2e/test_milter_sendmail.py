"""Sendmail uses smtpproxy as a milter, configured as in docs/deploy/sendmail-milter.md."""

import smtplib
import tomllib
from collections.abc import Callable, Iterator

import pytest

from tests.kit.audit import records
from tests.kit.messages import marketing, message
from tests.kit.pages import blocks
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, free_port, wait_for
from tests.kit.relay import RelayProcess
from tests.kit.sendmail import SendmailInstance
from tests.kit.store import address
from tests.kit.upstream import Accepted, FakeUpstream

pytestmark = needs("sendmail")

SENDER = "news@shop.example"


@pytest.fixture(scope="module")
def pair(
    filled: Callable[..., RelayProcess], mta: FakeUpstream
) -> Iterator[tuple[RelayProcess, SendmailInstance]]:
    """smtpproxy and Sendmail as on the page; all mail is relayed to `mta`."""
    port, milter, notices = free_port(), free_port(), free_port()
    toml, mc = blocks(
        "deploy/sendmail-milter.md",
        {
            "127.0.0.1:8891": f"{LOOPBACK}:{milter}",
            "inet:8891@": f"inet:{milter}@",
            "10026": str(notices),
            "Port=smtp,": f"Port={port}, Addr={LOOPBACK},",
        },
    )
    config = tomllib.loads(toml)
    aliases = ["list: withdrawn@people.example"]
    with SendmailInstance(mta.address, mc, port, aliases) as sendmail:
        yield filled(config["upstream"]["address"], config), sendmail


@pytest.fixture
def relay(pair: tuple[RelayProcess, SendmailInstance]) -> RelayProcess:
    return pair[0]


@pytest.fixture
def client(pair: tuple[RelayProcess, SendmailInstance]) -> Iterator[smtplib.SMTP]:
    with smtplib.SMTP(LOOPBACK, pair[1].port, timeout=60) as session:
        session.ehlo("client.example")
        yield session


def send(
    client: smtplib.SMTP, mail: bytes, *recipients: str, sender: str = SENDER
) -> tuple[int, str]:
    """Send a message; return the reply that decided."""
    code, text = client.mail(sender)
    for recipient in recipients:
        if code < 400:
            code, text = client.rcpt(recipient)
    if code < 400:
        code, text = client.data(mail)
    else:
        client.rset()
    return code, text.decode()


def relayed(mta: FakeUpstream, about: str, count: int = 1) -> list[Accepted]:
    def found() -> list[Accepted] | None:
        mails = [mail for mail in mta.messages if about.encode() in mail.data]
        return mails if len(mails) >= count else None

    return wait_for(found, f"{count} of {about}")


def test_several_messages_on_one_connection_some_refused(
    relay: RelayProcess, client: smtplib.SMTP, mta: FakeUpstream
) -> None:
    good = marketing(message_id="<good@shop.example>", headers=[("X-Fold", "a\r\n\tb")])
    code, text = send(client, good, address("consent"))
    assert code == 250
    assert records(relay)[-1].decided.client.queue_id == text.split()[1]
    assert records(relay)[-1].decided.client.peer == LOOPBACK
    code, text = send(client, marketing(unsubscribe=None), address("consent"))
    assert (code, text.partition(" (")[0]) == (550, "5.7.0 refused: unsubscribe_missing")
    code, text = send(client, marketing(), address("complained"))
    assert code == 550
    assert "<complained@people.example> refused: suppressed_complaint (stream offers)" in text
    receipt = message(stream="receipts", message_id="<receipt@shop.example>")
    assert send(client, receipt, "stranger@people.example")[0] == 250
    (got,) = relayed(mta, "<receipt@shop.example>")
    assert b"x-mail-stream" not in got.data.lower()
    (got,) = relayed(mta, "<good@shop.example>")
    assert got.recipients == (address("consent"),)
    assert b"X-Fold: a\r\n\tb\r\n" in got.data


def test_split_removes_refused_recipients_and_notifies_the_sender(
    client: smtplib.SMTP, mta: FakeUpstream
) -> None:
    mail = marketing(message_id="<split@shop.example>")
    recipients = [address("withdrawn"), address("consent"), "x+tag@People.Example"]
    code, text = send(client, mail, *recipients)
    assert code == 250, text
    notice, rest = sorted(relayed(mta, "<split@shop.example>", 2), key=lambda m: m.sender)
    assert (notice.sender, notice.recipients) == ("", (SENDER,))
    assert b"<withdrawn@people.example> refused: consent_withdrawn" in b" ".join(
        notice.data.split()
    )
    assert rest.recipients == (address("consent"),)


def test_recipients_behind_an_alias_are_never_split(
    client: smtplib.SMTP, mta: FakeUpstream
) -> None:
    """Sendmail has expanded the alias by then, and DELRCPT would not find the recipient."""
    mail = marketing(message_id="<alias@shop.example>")
    code, text = send(client, mail, address("consent"), "list@mx.example")
    assert code == 550, text
    assert "<list@mx.example> refused: no_record" in text
    assert [m for m in mta.messages if b"<alias@shop.example>" in m.data] == []


def test_a_null_reverse_path_is_refused_for_all(client: smtplib.SMTP) -> None:
    code, text = send(client, marketing(), address("consent"), address("withdrawn"), sender="")
    assert (code, "<withdrawn@people.example> refused" in text) == (550, True)


def test_large_messages_pass_unchanged(client: smtplib.SMTP, mta: FakeUpstream) -> None:
    mail = marketing(message_id="<large@shop.example>", body=("x" * 78 + "\r\n") * 50_000)
    assert send(client, mail, address("consent"))[0] == 250
    (got,) = relayed(mta, "<large@shop.example>")
    assert got.data.endswith(mail.partition(b"\r\n\r\n")[2])


def test_nothing_passes_without_smtpproxy(
    relay: RelayProcess, pair: tuple[RelayProcess, SendmailInstance]
) -> None:
    """The last test of the file: smtpproxy is not started again."""
    assert relay.terminate() == 0
    with smtplib.SMTP(LOOPBACK, pair[1].port, timeout=60) as client:
        client.ehlo("client.example")
        assert send(client, marketing(), address("consent"))[0] == 451
