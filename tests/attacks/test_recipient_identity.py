"""I want blocked@victim.test mailed all the same, or my suppression file to have no effect.

The address means one thing to the firewall and another to the MTA behind it, or was entered so
that it can never match.
"""

import json
import smtplib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from smtpproxy.cli import main
from tests.cli.stored import Stored
from tests.kit.messages import message
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, free_port
from tests.kit.postfix import PostfixInstance
from tests.kit.relay import RelayProcess, listener

REWRITTEN = [
    "blocked%victim.test@localhost",
    "victim.test!blocked@localhost",
    '"blocked@victim.test"@localhost',
    '"blocked%victim.test"@localhost',
    '"victim.test!blocked"@localhost',
    "blocked%victim.test@[127.0.0.1]",
    "blocked%victim.test@mx.example",
    "blocked%victim.test%localhost@localhost",
    "localhost!victim.test!blocked@localhost",
    "localhost!blocked%victim.test@localhost",
    "!victim.test!blocked@localhost",
    "blocked%victim.test%@localhost",
    "victim.test.!blocked@localhost",
    '"blocked%victim.test@localhost"@localhost',
    "BLOCKED%Victim.Test@LocalHost",
    "blocked%victim.test",
    "victim.test!blocked",
    '"blocked@victim.test"',
    '"victim.test!blocked"',
    "someone%wild.test@localhost",
    "someone%deep.under.test@localhost",
]
"""Addresses that a default Postfix delivers to a suppressed person."""

OBSCURED = [
    '"victim.test! blocked"@localhost',
    r'"victim.test!\"blocked\""@localhost',
    r'"victim.test!bloc\\ked"@localhost',
    '"@localhost:blocked@victim.test"@localhost',
    "%".join("abcdefghijklmnopqrstuvwxyz") + "%victim.test@localhost",
]
"""Likewise, with too many readings to look up."""

SUPPRESSED = ["blocked@victim.test", "@wild.test", "*.under.test"]
STREAM = {"name": "receipts", "class": "transactional"}


DOORS = {"relay": "smtp", "milter": "milter", "policy": "policy"}


@pytest.fixture(scope="module")
def intakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PostfixInstance, Any]]:
    """The port of each intake, with Postfix behind the first and in front of the others."""
    listeners = {
        name: listener(name, "receipts", default="receipts", protocol=protocol)
        for name, protocol in DOORS.items()
    }
    milter, policy = (f"inet:{listeners[name]['address']}" for name in ("milter", "policy"))
    behind, asking = free_port(), free_port()
    with PostfixInstance(
        main={"mydestination": "localhost, mx.example"},
        smtpd={"smtpd_recipient_restrictions": f"check_policy_service,{policy}"},
        services=f"{LOOPBACK}:{behind} inet n - n - - smtpd\n"
        f"{LOOPBACK}:{asking} inet n - n - - smtpd\n  -o smtpd_milters={milter}\n",
    ) as postfix:
        relay = RelayProcess(
            tmp_path_factory.mktemp("relay"),
            f"{LOOPBACK}:{behind}",
            {"stream": [STREAM], "listener": list(listeners.values())},
        )
        for name in SUPPRESSED:
            relay.must("suppress", "add", name)
        relay.start()
        yield postfix, {"relay": relay.port("relay"), "milter": asking, "policy": postfix.port}
        relay.kill()


def asked(port: int, recipient: str) -> tuple[int, str]:
    """Send one message; return the reply that decided."""
    with smtplib.SMTP(LOOPBACK, port, timeout=60) as client:
        client.ehlo("client.example")
        client.docmd("MAIL", "FROM:<app@shop.example>")
        code, text = client.docmd("RCPT", f"TO:<{recipient}>")
        if code == 250:
            code, text = client.data(message())
        return code, text.decode()


@needs("postfix")
@pytest.mark.parametrize("door", DOORS)
def test_i_write_the_victim_so_that_only_the_mta_recognises_them(
    intakes: tuple[PostfixInstance, Any], door: str
) -> None:
    postfix, ports = intakes
    replies = {one: asked(ports[door], one) for one in REWRITTEN + OBSCURED}
    assert {one: reply for one, reply in replies.items() if reply[0] < 500} == {}
    postfix.wait_empty()
    assert [mail.recipient for mail in postfix.delivered() if "hello" not in mail.recipient] == []


@needs("postfix")
@pytest.mark.parametrize("door", DOORS)
def test_an_address_with_a_routing_character_still_gets_mail(
    intakes: tuple[PostfixInstance, Any], door: str
) -> None:
    postfix, ports = intakes
    assert asked(ports[door], "hello!@example.com")[0] == 250
    postfix.wait_empty()
    assert "hello!@example.com" in [mail.recipient for mail in postfix.delivered()]


INVISIBLE = ["\u200b", "\ufeff", "\u00ad", "\u202a", "\u200c", "\u00a0", "\u2800"]


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def refused_for(stored: Stored, recipient: str) -> str:
    """The reason that a receipt to the recipient is refused for; empty when it is not."""
    mail = stored.file("mail.eml", message())
    arguments = ("explain", mail, "--mail-from", "app@shop.example", "--rcpt", recipient)
    found = CliRunner().invoke(
        main, [*arguments, "--stream", "receipts", "--json", "--config", str(stored.config_path)]
    )
    reason = json.loads(found.stdout)["recipients"][0]["reason"]
    return "" if reason == "none" else str(reason)


@pytest.mark.parametrize("character", INVISIBLE)
def test_my_export_has_an_invisible_character(stored: Stored, character: str) -> None:
    name = f"U+{ord(character):04X}"
    stored.run("suppress", "add", f"{character}end@victim.test{character}")
    assert refused_for(stored, "end@victim.test") == "suppressed_manual"
    inside = f"in{character}side@victim.test"
    for command in (
        ("suppress", "add", inside),
        ("suppress", "show", inside),
        ("consent", "withdraw", inside, "--purpose", "offers"),
        ("contact", "show", inside),
        ("contact", "erase", inside),
    ):
        assert name in stored.run(*command, code=2).stderr, command
    rows = f"address,scope,origin\n{character}file@victim.test,all,manual\n{inside},all,manual\n"
    file = stored.file("list.csv", rows)
    stored.run("suppress", "import", file, code=1)
    assert name in (stored.folder / "list.csv.rejected").read_text()
    assert refused_for(stored, "file@victim.test") == "suppressed_manual"
    people = stored.file("people.ndjson", json.dumps({"address": inside}))
    stored.run("contact", "import", people, code=1)
    assert name in (stored.folder / "people.ndjson.rejected").read_text()


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("\uff42\uff4f\uff42@victim.test", "U+FF42 FULLWIDTH LATIN SMALL LETTER B"),
        ("bob\uff20victim.test", "U+FF20 FULLWIDTH COMMERCIAL AT"),
        ("victim.test", "for a whole domain write @victim.test"),
        ("b*@victim.test", "@example.com suppresses everybody at a domain"),
        ("*@*.*", "@example.com suppresses everybody at a domain"),
        ("*", "@example.com suppresses everybody at a domain"),
        ("*.test", "at least two labels"),
    ],
)
def test_my_export_can_match_nobody(stored: Stored, written: str, says: str) -> None:
    shown = " ".join(stored.run("suppress", "add", written, code=2).stderr.split())
    assert says in shown.replace(" │ │ ", " ")


@pytest.mark.parametrize(
    "written",
    [
        "<bob@victim.test>",
        "mailto:bob%40victim.test?subject=stop",
        '"bob@victim.test"',
        "'bob@victim.test'",
        "bob@victim.test,",
        " bob@victim.test.; ",
        "bob@victim\u3002test",
        "bob@\uff56ictim.test",
    ],
)
def test_characters_around_an_address_keep_nobody_off_the_list(
    stored: Stored, written: str
) -> None:
    stored.run("suppress", "add", written)
    assert refused_for(stored, "bob@victim.test") == "suppressed_manual"


def test_my_domain_is_suppressed(stored: Stored) -> None:
    for name in ("*@wild.test", "@\u200bPlain.test\u200b".replace("@\u200b", "@"), "*.below.test"):
        stored.run("suppress", "add", name)
    refused = {
        "anybody@wild.test": True,
        "anybody@plain.test": True,
        "anybody@sub.wild.test": False,
        "anybody@notwild.test": False,
        "anybody@below.test": True,
        "anybody@a.b.below.test": True,
        "anybody@notbelow.test": False,
    }
    found = {one: refused_for(stored, one) == "suppressed_manual" for one in refused}
    assert found == refused
