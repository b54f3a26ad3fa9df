"""A login passed on by the MTA is a credential, as if it had come by AUTH."""

from pathlib import Path

import pytest

from smtpproxy.events import SenderRefused
from tests.intake.conftest import Listen
from tests.intake.listening import Intake
from tests.kit.messages import marketing
from tests.kit.mta import mta

SENDER = "news@shop.example"
CONSENT = "consent@people.example"
NOT_THEIRS = "550 5.7.1 this client may not send from that address"


@pytest.fixture
def milter(listen: Listen, tmp_path: Path) -> Intake:
    (tmp_path / "users").touch()
    mailer = {"user": "mailer", "streams": ["offers"], "default_stream": "offers"}
    config = {
        "credential": [mailer | {"senders": ["@shop.example"]}],
        "auth": {"users": str(tmp_path / "users")},
    }
    streams = ["receipts", "offers"]
    return listen(config, protocol="milter", streams=streams, default_stream="receipts")


def test_the_login_narrows_the_streams(milter: Intake) -> None:
    with mta(milter.port) as peer:
        peer.negotiate()
        peer.connect()
        peer.mail(SENDER, **{"{auth_authen}": "mailer"})
        refused = peer.rcpt("withdrawn@people.example").reply  # which leaves a single stream
        assert refused.startswith("550 5.7.1 ")
        assert peer.rcpt(CONSENT).final == "c"
        outcome = peer.message(marketing(stream="receipts"))
        assert "stream_not_permitted" in outcome.reply
        peer.mail(SENDER, **{"{auth_authen}": "somebody"})
        assert peer.rcpt("withdrawn@people.example").final == "c"
        assert peer.message(marketing(stream="receipts")).final == "c"


def test_foreign_senders_are_refused(milter: Intake) -> None:
    with mta(milter.port) as peer:
        peer.negotiate()
        peer.connect()
        peer.mail("boss@bank.example", **{"{auth_authen}": "mailer"})
        assert peer.rcpt(CONSENT).reply == NOT_THEIRS
        assert peer.message(marketing()).reply == NOT_THEIRS
        peer.mail(SENDER, **{"{auth_authen}": "mailer"})
        assert peer.rcpt(CONSENT).final == "c"
        assert peer.message(marketing()).final == "c"
    assert len(milter.of(SenderRefused)) == 1
    (decided,) = milter.records.decided
    assert (decided.client.login, decided.decision.stream.name) == ("mailer", "offers")
