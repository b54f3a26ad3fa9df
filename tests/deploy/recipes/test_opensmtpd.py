"""OpenSMTPD relaying through smtpproxy, as in docs/deploy/opensmtpd.md."""

import tomllib
from collections.abc import Callable, Iterator

import pytest

from tests.deploy.recipes.clients import SENDER, arrived, send, session
from tests.kit.messages import marketing, message
from tests.kit.opensmtpd import OpensmtpdInstance
from tests.kit.pages import blocks
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, free_port, wait_for
from tests.kit.relay import RelayProcess
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

pytestmark = needs("opensmtpd")


@pytest.fixture(scope="module")
def smtpd(filled: Callable[..., RelayProcess], mta: FakeUpstream) -> Iterator[OpensmtpdInstance]:
    toml, lines = blocks(
        "deploy/opensmtpd.md",
        {"127.0.0.1:2525": f"{LOOPBACK}:{free_port()}", "127.0.0.1:10025": mta.address},
    )
    filled(mta.address, tomllib.loads(toml))  # first, or smtpd gives up on it
    with OpensmtpdInstance(lines, free_port(), mta.address) as server:
        yield server


def test_permitted_recipients_get_mail_and_the_sender_learns_of_the_others(
    smtpd: OpensmtpdInstance, mta: FakeUpstream
) -> None:
    """One is refused at RCPT (OpenSMTPD bounces), one at the end (smtpproxy sends a notice)."""
    people = [address("withdrawn"), address("consent"), address("complained")]
    mail = marketing(message_id="<some@shop.example>", body="caf\xe9\r\n.dot\r\n")
    with session(smtpd.port) as client:
        assert send(client, mail, *people)[0] == 250

    def told() -> bytes:
        notices = [each for each in mta.messages if each.recipients == (SENDER,)]
        return b" ".join(b" ".join(each.data.split()) for each in notices)

    wait_for(lambda: b"refused: suppressed_complaint" in told(), "the bounce")
    wait_for(lambda: b"refused: consent_withdrawn" in told(), "the notice")
    found = arrived(mta, "<some@shop.example>")
    (got,) = [each for each in found if each.sender]
    assert (got.sender, got.recipients) == (SENDER, (address("consent"),))
    assert got.data.endswith(mail.partition(b"\r\n\r\n")[2])


def test_a_message_that_lacks_something_bounces(
    smtpd: OpensmtpdInstance, mta: FakeUpstream
) -> None:
    with session(smtpd.port) as client:
        mail = marketing(one_click=None, message_id="<lacks@shop.example>")
        assert send(client, mail, address("consent"))[0] == 250
    (bounce,) = arrived(mta, "<lacks@shop.example>")
    assert b"refused: one_click_missing" in b" ".join(bounce.data.split())
    assert (bounce.sender, bounce.recipients) == ("", (SENDER,))


def test_the_stream_header_chooses_the_stream(smtpd: OpensmtpdInstance, mta: FakeUpstream) -> None:
    with session(smtpd.port) as client:
        receipt = message(stream="receipts", message_id="<receipt@shop.example>")
        assert send(client, receipt, "stranger@people.example")[0] == 250
    (got,) = arrived(mta, "<receipt@shop.example>")
    assert b"x-mail-stream" not in got.data.lower()
