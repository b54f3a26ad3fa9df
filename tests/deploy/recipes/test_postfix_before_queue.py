"""smtpproxy as Postfix's smtpd_proxy_filter, as in docs/deploy/postfix-before-queue.md."""

import smtplib
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.deploy.recipes.clients import delivered, send, session
from tests.kit.audit import records
from tests.kit.messages import marketing, message
from tests.kit.pages import blocks
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, free_port
from tests.kit.postfix import PostfixInstance
from tests.kit.relay import RelayProcess
from tests.kit.store import address

pytestmark = needs("postfix")


@dataclass
class Site:
    relay: RelayProcess
    postfix: PostfixInstance
    port: int  # where applications submit
    adjusted: int  # the same with speed_adjust


@pytest.fixture(scope="module")
def site(filled: Callable[..., RelayProcess]) -> Iterator[Site]:
    front, listener, back = free_port(), free_port(), free_port()
    toml, master = blocks(
        "deploy/postfix-before-queue.md",
        {
            "127.0.0.1:2525": f"{LOOPBACK}:{listener}",
            "127.0.0.1:10026": f"{LOOPBACK}:{back}",
            "smtp inet": f"{LOOPBACK}:{front} inet",
        },
    )
    adjusted = free_port()
    services = f"""\
{master}{LOOPBACK}:{adjusted} inet n - n - 20 smtpd
  -o smtpd_proxy_filter={LOOPBACK}:{listener}
  -o smtpd_proxy_options=speed_adjust
"""
    with PostfixInstance(services=services) as postfix:
        relay = filled(f"{LOOPBACK}:{back}", tomllib.loads(toml))
        yield Site(relay, postfix, front, adjusted)


@pytest.fixture
def client(site: Site) -> Iterator[smtplib.SMTP]:
    with session(site.port) as client:
        yield client


def test_a_permitted_message_is_queued_and_the_client_is_recorded(
    site: Site, client: smtplib.SMTP
) -> None:
    mail = marketing(message_id="<good@shop.example>", body="caf\xe9\r\n..dots\r\n")
    code, text = send(client, mail, address("consent"))
    assert (code, "queued as" in text) == (250, True)
    (got,) = delivered(site.postfix, "<good@shop.example>")
    assert got.recipient == address("consent")
    assert got.message.endswith(mail)
    decided = records(site.relay)[-1].decided
    assert (decided.client.peer, decided.client.helo) == (LOOPBACK, "client.example")
    assert "orig_client=" in site.postfix.log  # the second smtpd knows the client


def test_recipients_are_refused_at_rcpt_and_the_others_get_mail(
    site: Site, client: smtplib.SMTP
) -> None:
    mail = marketing(message_id="<some@shop.example>")
    client.mail("news@shop.example")
    assert client.rcpt(address("consent"))[0] == 250
    code, text = client.rcpt(address("complained"))
    assert (code, text.partition(b" (")[0]) == (
        550,
        b"5.7.1 <complained@people.example> refused: suppressed_complaint",
    )
    assert client.data(mail)[0] == 250
    (got,) = delivered(site.postfix, "<some@shop.example>")
    assert got.recipient == address("consent")


def test_a_message_is_refused_at_the_end(client: smtplib.SMTP) -> None:
    code, text = send(client, marketing(unsubscribe=None), address("consent"))
    assert (code, text.partition(" (")[0]) == (550, "5.7.0 refused: unsubscribe_missing")
    code, text = send(client, marketing(), address("withdrawn"))
    assert (code, "consent_withdrawn" in text) == (550, True)


def test_the_stream_header_chooses_the_stream(site: Site, client: smtplib.SMTP) -> None:
    receipt = message(stream="receipts", message_id="<receipt@shop.example>")
    assert send(client, receipt, "stranger@people.example")[0] == 250
    (got,) = delivered(site.postfix, "<receipt@shop.example>")
    assert b"x-mail-stream" not in got.message.lower()


def test_with_speed_adjust_one_refusal_refuses_everybody(site: Site) -> None:
    """The pitfall: Postfix answers RCPT with 250 before it asks smtpproxy."""
    with session(site.adjusted) as client:
        client.mail("news@shop.example")
        assert client.rcpt(address("consent"))[0] == 250
        assert client.rcpt(address("complained"))[0] == 250
        code, text = client.data(marketing(message_id="<adjusted@shop.example>"))
        assert (code, b"<complained@people.example> refused" in text) == (550, True)
        client.rset()
        assert send(client, marketing(), address("consent"))[0] == 250
    site.postfix.wait_empty()
    assert [m for m in site.postfix.delivered() if b"<adjusted@shop.example>" in m.message] == []


def test_nothing_passes_without_smtpproxy(site: Site) -> None:
    """Keep this test last, as the relay it starts ends with it."""
    assert site.relay.terminate() == 0
    for port in (site.port, site.adjusted):
        with session(port) as client:
            code, text = send(client, marketing(), address("consent"))
            assert (code, text[:5]) == (451, "4.3.0")
