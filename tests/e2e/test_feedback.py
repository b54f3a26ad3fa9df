"""The feedback mailbox of a running relay: reports by LMTP or maildir take effect at once, once,
and despite kills; forged or hostile ones change nothing."""

import re
import smtplib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_ways_out import bare
from tests.kit.audit import records
from tests.kit.messages import marketing, message
from tests.kit.ports import LOOPBACK, free_port, wait_for
from tests.kit.relay import STREAMS, RelayProcess, listener
from tests.kit.reports import bounce, complaint, letter
from tests.kit.soak import times
from tests.kit.store import address
from tests.kit.upstream import Accepted, At, FakeUpstream, Hold, Step

JEANNE, PAUL, DESK = address("consent"), address("customer"), address("desk")
DOMAIN, APP = "bounces.shop.example", "orders@shop.example"
StartFilled = Callable[..., RelayProcess]

pytestmark = pytest.mark.soak


def config() -> dict[str, Any]:
    adding = {"unsubscribe": "add", "unsubscribe_mailto": f"stop@{DOMAIN}"}
    return {
        "web": {"address": f"{LOOPBACK}:{free_port()}", "public_url": "http://127.0.0.1:1"},
        "feedback": {"domain": DOMAIN, "address": f"{LOOPBACK}:{free_port()}"},
        "listener": [listener("apps", "offers", "receipts", default="offers")],
        "stream": [{**STREAMS[0], **adding}, {**STREAMS[1], "verp": True}],
    }


@pytest.fixture(scope="module")
def relay(mta: FakeUpstream, filled: StartFilled) -> RelayProcess:
    return filled(mta.address, config())


@pytest.fixture
def upstream(mta: FakeUpstream) -> Iterator[FakeUpstream]:
    mta.begin()
    yield mta
    mta.begin()
    mta.release()


def mailed(upstream: FakeUpstream, person: str) -> Accepted:
    """The last message to this person: bounces of an earlier test may still be forwarded."""
    return [each for each in upstream.messages if each.recipients == (person,)][-1]


def receipts(relay: RelayProcess, upstream: FakeUpstream, *people: str) -> Sequence[Accepted]:
    """Mail these people on the stream whose bounces come back; return what the upstream got."""
    before = len(upstream.messages)
    for person in people:
        assert relay.send(message(stream="receipts"), person, sender=APP)[0] == 250
    return [each for each in upstream.messages[before:] if set(each.recipients) <= set(people)]


def deliver(relay: RelayProcess, *reports: tuple[str, bytes], sender: str = "") -> None:
    """Deliver reports by LMTP like the MTA, each to one recipient."""
    host, _, port = relay.config["feedback"]["address"].rpartition(":")
    with smtplib.LMTP(host, int(port)) as client:
        client.ehlo("mx.example")
        for recipient, content in reports:
            assert client.mail(sender)[0] == 250
            assert client.rcpt(recipient)[0] == 250
            assert client.data(content)[0] == 250


def refused(relay: RelayProcess, person: str, reason: str, letter: bytes | None = None) -> bool:
    code, text = relay.send(letter or message(stream="receipts"), person, sender=APP)
    told = f"5.7.1 <{person}> refused: {reason}"
    return code == 550 and text.startswith(told)


def handed_on(upstream: FakeUpstream) -> list[str]:
    """The people whom the app's bounces are about."""
    found = []
    for each in list(upstream.messages):
        about = re.search(rb"Final-Recipient: rfc822; (\S+)", each.data)
        if each.recipients == (APP,) and about is not None:
            assert each.sender == "", "it must not be answered"
            found.append(about[1].decode())
    return sorted(found)


def test_a_complaint_about_a_relayed_message_suppresses(
    relay: RelayProcess, upstream: FakeUpstream
) -> None:
    assert relay.send(bare(), JEANNE)[0] == 250
    header = mailed(upstream, JEANNE).data.partition(b"\r\n\r\n")[0].decode()
    told = complaint("", *header.split("\r\n"))
    deliver(relay, (f"abuse@{DOMAIN}", told), sender="loop@provider.example")
    wait_for(lambda: refused(relay, JEANNE, "suppressed_complaint", bare()), "the refusal")
    assert receipts(relay, upstream, JEANNE), "the brand's receipts must pass"
    assert relay.metric("smtpproxy_feedback_total", kind="complaint", stream="offers") == 1


def test_mail_to_the_unsubscribe_address_unsubscribes(
    relay: RelayProcess, upstream: FakeUpstream
) -> None:
    assert relay.send(bare(), PAUL)[0] == 250
    unfolded = mailed(upstream, PAUL).data.replace(b"\r\n ", b" ")
    found = re.search(rb"<mailto:(\S+)\?subject=([^>]+)>", unfolded)
    assert found is not None
    subject = found[2].decode().replace("%20", " ")
    assert found[1].decode() == f"stop@{DOMAIN}"
    deliver(relay, (found[1].decode(), letter(subject, to=found[1].decode(), sender=PAUL)))
    wait_for(lambda: refused(relay, PAUL, "suppressed_unsubscribe", bare()), "the refusal")
    shown = relay.must("suppress", "show", PAUL, "--json")
    assert "link of id=" in shown


def test_files_put_into_the_maildir_by_other_programs_are_read(
    relay: RelayProcess, upstream: FakeUpstream
) -> None:
    (mail,) = receipts(relay, upstream, "maildir@people.example")
    new = Path(relay.config["server"]["state_dir"]) / "feedback/new"
    content = bounce("maildir@people.example", to=mail.sender).replace(b"\r\n", b"\n")
    (new / "1764359123.V801I2c0aM66932.mx.example").write_bytes(
        f"Return-Path: <>\nX-Original-To: {mail.sender}\n".encode() + content
    )
    wait_for(lambda: handed_on(upstream) == ["maildir@people.example"], "the bounce")
    assert refused(relay, "maildir@people.example", "suppressed_bounce")
    got = next(each.data for each in upstream.messages if each.recipients == (APP,))
    assert got.split(b"\r\n\t", 1)[0] == b"Received: from feedback (unix)"
    assert b"X-Original-To" not in got
    assert b"\n" not in got.replace(b"\r\n", b"")
    notices = [each.decided for each in records(relay) if each.decided.stage == "notice"]
    assert notices[-1].decision.stream.name == "notices"
    assert notices[-1].notice_about is not None


def test_acknowledged_reports_take_effect_once_despite_kills(
    upstream: FakeUpstream, filled: StartFilled
) -> None:
    relay = filled(upstream.address, config())
    people = [f"person{n}@people.example" for n in range(40)]
    mails = {mail.recipients[0]: mail for mail in receipts(relay, upstream, *people)}
    told = [(mails[who].sender, bounce(who, to=mails[who].sender)) for who in people]
    upstream.begin(At("rcpt", Hold(), to=APP))
    for some in range(0, 40, 20):
        deliver(relay, *told[some : some + 20], *told[:1])
        relay.kill()
        relay.start()
    deliver(relay, *told[:5])
    assert handed_on(upstream) == []
    wait_for(lambda: all(refused(relay, who, "suppressed_bounce") for who in people), "refusals")
    relay.kill()
    upstream.begin()
    upstream.release()
    relay.start()
    wait_for(lambda: len(handed_on(upstream)) >= 40, "the bounces for the app")
    deliver(relay, *told[:3])
    new = Path(relay.config["server"]["state_dir"]) / "feedback/new"
    wait_for(lambda: not list(new.iterdir()), "all to be read")
    assert handed_on(upstream) == sorted(people)
    assert relay.metric("smtpproxy_feedback_total", kind="dead", stream="receipts") == 40
    assert relay.metric("smtpproxy_feedback_reports", state="hand_on") == 0


def test_a_storm_of_forged_reports_changes_nothing(
    relay: RelayProcess, upstream: FakeUpstream
) -> None:
    (mail,) = receipts(relay, upstream, "real@people.example")
    local_part = mail.sender.partition("@")[0]
    victims = [f"victim{n}@people.example" for n in range(times(40, 2_000))]
    storm = []
    for n, victim in enumerate(victims):
        forged = f"{local_part[:-6]}{n:06}@{DOMAIN}".replace("0", "a").replace("1", "b")
        storm += [
            (forged, bounce(victim, to=forged)),
            (mail.sender, bounce(victim, f"Return-Path: <{mail.sender}>", to=mail.sender)),
            (f"abuse@{DOMAIN}", complaint(victim)),
            (f"stop@{DOMAIN}", letter("unsubscribe", to=f"stop@{DOMAIN}", sender=victim)),
        ]
    deliver(relay, *storm)
    new = Path(relay.config["server"]["state_dir"]) / "feedback/new"
    wait_for(lambda: not list(new.iterdir()), "all to be read", timeout=120)
    assert all(receipts(relay, upstream, *victims[:5]))
    assert refused(relay, "real@people.example", "suppressed_bounce"), "only by its own token"
    assert len(handed_on(upstream)) == 1, "one bounce of each kind about a message"


HOSTILE = {
    "nested": b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n" * 3_000,
    "boundaries": b"Content-Type: multipart/report; boundary=a\r\n\r\n" + b"--a\r\n" * 400_000,
    "one field": b"Subject: " + b"a" * 60_000 + b"\r\n" * 2,
    "many fields": b"X: y\r\n" * 300_000,
    "spaces": b"Subject: x\r\n" + b" " * 50_000 + b"\r\n" * 2,
    "octets": (bytes(range(256)) + b"\r\n") * 4_000,
    "nothing": b"\r\n",
    "delivery status": b"Content-Type: message/delivery-status\r\n\r\n"
    + b"Final-Recipient: rfc822; a@b.example\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n" * 20_000,
}


def test_hostile_mail_delays_nobody(relay: RelayProcess, upstream: FakeUpstream) -> None:
    (mail,) = receipts(relay, upstream, "after@people.example")
    for content in HOSTILE.values():
        deliver(relay, (mail.sender, content))
    deliver(relay, (mail.sender, bounce("after@people.example", to=mail.sender)))
    wait_for(lambda: refused(relay, "after@people.example", "suppressed_bounce"), "the refusal")
    assert relay.children("feedback"), "the process must still run"
    assert "Traceback" not in relay.output


def test_bounces_are_not_forwarded_if_the_app_wants_none(
    relay: RelayProcess, upstream: FakeUpstream
) -> None:
    """Mail from the null path gets no bounces; a reverse path of our own would loop."""
    ours = f"app@{DOMAIN}"
    assert relay.send(message(stream="receipts"), "null@people.example", sender="")[0] == 250
    assert relay.send(message(stream="receipts"), "loop@people.example", sender=ours)[0] == 250
    assert mailed(upstream, "null@people.example").sender == ""
    path = mailed(upstream, "loop@people.example").sender
    deliver(relay, (path, bounce("loop@people.example", to=path)))
    wait_for(lambda: refused(relay, "loop@people.example", "suppressed_bounce"), "the refusal")
    wait_for(lambda: "leads back to this mailbox" in relay.output, "a line in the log")
    assert [each for each in upstream.messages if each.recipients == (ours,)] == []


def test_observed_mail_and_other_streams_are_unchanged(
    relay: RelayProcess, upstream: FakeUpstream
) -> None:
    assert relay.send(marketing(), DESK)[0] == 250
    assert mailed(upstream, DESK).sender == "news@shop.example"


class TakesOne(FakeUpstream):
    """An upstream that accepts one connection at a time."""

    def _usual(self, step: Step) -> str:
        if step == "connect" and len(self._open) > 1:
            return "421 4.3.2 too many connections"
        return super()._usual(step)


def test_bounces_and_mail_share_the_upstream_connections(
    filled: StartFilled,
) -> None:
    """Bounces once waited until the workers' connections had long been idle, and mail likewise."""
    with TakesOne() as upstream:
        relay = filled(upstream.address, config())
        for person in ("anna@people.example", "bernard@people.example"):
            (mail,) = receipts(relay, upstream, person)
            deliver(relay, (mail.sender, bounce(person, to=mail.sender)))
            wait_for(lambda person=person: person in handed_on(upstream), "the bounce", timeout=20)
