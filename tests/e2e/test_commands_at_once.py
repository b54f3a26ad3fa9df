"""A change by a command counts at the very next RCPT of open sessions."""

import json
import smtplib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit.ports import LOOPBACK
from tests.kit.relay import RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream


class Session:
    """One open SMTP session and one open transaction in it."""

    def __init__(self, client: smtplib.SMTP) -> None:
        self._client = client
        client.ehlo()
        assert client.mail("news@shop.example")[0] == 250

    def rcpt(self, name: str) -> str:
        """`ok`, or the reason of the refusal."""
        code, text = self._client.rcpt(address(name))
        if code == 250:
            return "ok"
        assert code == 550
        return text.decode().partition("refused: ")[2].partition(" ")[0]


@pytest.fixture(scope="module")
def relay(mta: FakeUpstream, filled: Callable[..., RelayProcess]) -> RelayProcess:
    shop = listener("shop", "offers", default="offers")
    return filled(mta.address, {"server": {"workers": 2}, "listener": [shop]})


@pytest.fixture
def session(relay: RelayProcess) -> Iterator[Session]:
    with smtplib.SMTP(LOOPBACK, relay.port(), timeout=30) as client:
        yield Session(client)


def test_suppress_add_and_remove(relay: RelayProcess, session: Session) -> None:
    assert session.rcpt("customer") == "ok"
    relay.must(
        "suppress", "add", address("customer"), "--scope", "marketing", "--origin", "objection"
    )
    assert session.rcpt("customer") == "suppressed_objection"
    relay.must("suppress", "remove", address("customer"), "--all", "--reason", "added by mistake")
    assert session.rcpt("customer") == "ok"


def test_suppress_add_with_a_plus_tag(relay: RelayProcess, session: Session) -> None:
    """Whoever unsubscribes as jeanne+news is not mailed as jeanne either."""
    assert session.rcpt("desk") == "ok"
    relay.must("suppress", "add", address("desk+news"), "--origin", "unsubscribe")
    assert session.rcpt("Desk") == "suppressed_unsubscribe"


def test_consent_withdraw_and_record(relay: RelayProcess, session: Session) -> None:
    assert session.rcpt("consent") == "ok"
    relay.must("consent", "withdraw", address("consent"), "--purpose", "offers")
    assert session.rcpt("consent") == "consent_withdrawn"
    relay.must(
        "consent", "record", address("consent"), "--purpose", "offers",
        "--method", "double_opt_in", "--wording", "form v4",
    )  # fmt: skip
    assert session.rcpt("consent") == "ok"


def test_contact_import_and_erase(relay: RelayProcess, session: Session, tmp_path: Path) -> None:
    assert session.rcpt("newcomer") == "no_record"
    contacts = tmp_path / "contacts.ndjson"
    contacts.write_text(
        json.dumps(
            {
                "address": address("newcomer"),
                "audience": "consumer",
                "source": "direct",
                "collected_at": "2026-01-05T09:00:00Z",
                "informed_at": "2026-01-05T09:00:00Z",
                "optout_offered": True,
                "purchases": [{"product": "shoes", "at": "2026-01-05T09:00:00Z"}],
            }
        )
    )
    relay.must("contact", "import", str(contacts))
    assert session.rcpt("newcomer") == "ok"
    relay.must("contact", "erase", address("newcomer"))
    assert session.rcpt("newcomer") == "suppressed_erasure"


def test_suppress_import(relay: RelayProcess, session: Session, tmp_path: Path) -> None:
    assert session.rcpt("nothing") == "consent_missing"
    path = tmp_path / "suppressions.csv"
    path.write_text(
        f"address,scope,origin,since,note\n{address('nothing')},all,complaint,2026-02-01T10:00:00Z,\n"
    )
    relay.must("suppress", "import", str(path))
    assert session.rcpt("nothing") == "suppressed_complaint"
