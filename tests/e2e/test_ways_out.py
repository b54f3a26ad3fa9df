"""`unsubscribe = "add"`: each recipient gets a copy with their own link."""

import json
import re
import smtplib
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from tests.kit.audit import outcome, records, relayed
from tests.kit.dkim import KeyFile, signed, verdicts
from tests.kit.dns import NameServer
from tests.kit.messages import marketing
from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.postfix import PostfixInstance
from tests.kit.relay import STREAMS, RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import Accepted, At, Close, FakeUpstream, Hold, Reply

JEANNE, PAUL, DESK = address("consent"), address("customer"), address("desk")
PUBLIC = "https://unsubscribe.shop.example"


def config(**more: Any) -> dict[str, Any]:
    offers = {
        **STREAMS[0],
        "unsubscribe": "add",
        "unsubscribe_mailto": "stop@shop.example",
        **more,
    }
    return {
        "stream": [offers, *STREAMS[1:]],
        "web": {"public_url": PUBLIC},
        "listener": [
            listener("apps", "offers", "receipts", default="offers"),
            listener("local", "offers", default="offers", protocol="lmtp"),
        ],
    }


def bare(**more: Any) -> bytes:
    """A marketing message without unsubscribe fields."""
    return marketing(unsubscribe=None, one_click=None, **more)


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def adding(upstream: FakeUpstream, filled: Callable[..., RelayProcess]) -> RelayProcess:
    return filled(upstream.address, config())


@pytest.fixture
def mta(upstream: FakeUpstream) -> Iterator[FakeUpstream]:
    """The upstream, empty before a test and without behaviours after it."""
    upstream.begin()
    yield upstream
    upstream.behaviours.clear()


def parsed(message: Accepted) -> EmailMessage:
    found = message_from_bytes(message.data, policy=policy.default)
    assert isinstance(found, EmailMessage)
    return found


def tokens(message: Accepted, public: str = PUBLIC) -> str:
    """The token of a message with exactly one complete set of unsubscribe fields."""
    mail = message_from_bytes(message.data)
    (field,) = mail.get_all("List-Unsubscribe", [])
    found = re.fullmatch(
        rf"<{public}/u/([A-Za-z0-9_-]{{30,200}})>,"
        r" <mailto:stop@shop\.example\?subject=unsubscribe%20([A-Za-z0-9_-]+)>",
        re.sub(r"\r?\n", "", field),
    )
    assert found, field
    assert found[1] == found[2]
    assert mail.get_all("List-Unsubscribe-Post") == ["List-Unsubscribe=One-Click"]
    assert len(mail.get_all("List-Id", [])) == 1
    return found[1]


def the_record(relay: RelayProcess, text: str) -> Any:
    id = text.rpartition("id=")[2]

    def found() -> Any:
        entries = [e for e in relayed(records(relay)) if e.decided.id == id]
        return entries[0] if entries and entries[0].outcome is not None else None

    return wait_for(found, "the outcome")


def test_one_recipient_gets_a_link(adding: RelayProcess, mta: FakeUpstream) -> None:
    assert adding.send(bare(), JEANNE) == (250, "2.0.0 queued as FAKE")
    (message,) = mta.messages
    tokens(message)
    mail = parsed(message)
    assert mail["List-Id"] == "<offers.relay.example>"
    assert "for <consent@people.example>" in mail["Received"]
    assert mail["Subject"] == "New shoes"
    commands = [command.split()[0] for _, command in mta.commands]
    assert commands.count("MAIL") == commands.count("RCPT") == 1, (
        "no more transactions than without"
    )


def test_several_recipients_get_one_copy_each(adding: RelayProcess, mta: FakeUpstream) -> None:
    code, text = adding.send(bare(), JEANNE, PAUL, DESK)
    assert code == 250
    assert re.fullmatch(r"2\.0\.0 relayed to 3 recipients, one copy each, id=\w{26}", text)
    assert sorted(m.recipients for m in mta.messages) == sorted([(JEANNE,), (PAUL,), (DESK,)])
    assert len({tokens(message) for message in mta.messages}) == 3
    for message in mta.messages:
        assert f"for <{message.recipients[0]}>" in parsed(message)["Received"]
    entry = the_record(adding, text)
    assert entry.outcome.each == ("250 2.0.0 queued as FAKE",) * 3


def test_a_recipient_named_twice_gets_one_copy(adding: RelayProcess, mta: FakeUpstream) -> None:
    assert adding.send(bare(), JEANNE, PAUL, JEANNE)[0] == 250
    assert sorted(m.recipients for m in mta.messages) == [(JEANNE,), (PAUL,)]


def test_existing_unsubscribe_fields_are_kept(adding: RelayProcess, mta: FakeUpstream) -> None:
    assert adding.send(marketing(), JEANNE, PAUL) == (250, "2.0.0 queued as FAKE")
    (message,) = mta.messages
    assert message.recipients == (JEANNE, PAUL)
    assert b"https://unsubscribe.shop.example/u/4aP1" in message.data
    assert adding.send(marketing(one_click=None), JEANNE)[1].startswith(
        "5.7.0 refused: one_click_missing"
    )


@pytest.mark.parametrize("existing", ["replace", "refuse"])
def test_existing_unsubscribe_fields_can_be_replaced_or_refused(
    filled: Callable[..., RelayProcess], existing: str
) -> None:
    own = marketing(headers=[("list-unsubscribe", "<https://a.example/2>"), ("List-Id", "<own>")])
    with FakeUpstream() as mta:
        relay = filled(mta.address, config(existing_unsubscribe=existing))
        code, text = relay.send(own, JEANNE)
        if existing == "refuse":
            assert code == 550
            assert text.startswith("5.7.0 refused: unsubscribe_malformed ")
            assert mta.messages == []
        else:
            tokens(mta.messages[0])
            assert b"a.example" not in mta.messages[0].data
            assert b"<own>" not in mta.messages[0].data


def test_incomplete_unsubscribe_fields_are_completed(
    adding: RelayProcess, mta: FakeUpstream
) -> None:
    list_id = [("List-Id", "Shop <shop.lists.example>")]
    assert adding.send(marketing(unsubscribe=None, headers=list_id), JEANNE)[0] == 250
    tokens(mta.messages[0])
    assert parsed(mta.messages[0])["List-Id"] == "Shop <shop.lists.example>"


def test_a_later_failure_is_reported_with_those_who_got_a_copy(
    adding: RelayProcess, mta: FakeUpstream
) -> None:
    mta.behaviours.append(At("end", Reply("550 5.2.2 mailbox full"), nth=2))
    _, text = adding.send(bare(), JEANNE, PAUL)
    the_record(adding, text)
    id = text.rpartition("id=")[2]
    told = json.loads(adding.must("explain", "--id", id, "--json"))["recipients"]
    for recipient, answer in zip(told, ["250 2.0.0 queued", "550 5.2.2 mailbox"], strict=True):
        assert f"answered for this recipient: {answer}" in recipient["notes"][-1]
    french = adding.must("explain", "--id", id, "--lang", "fr")
    assert "ce destinataire : 550 5.2.2" in " ".join(french.split())
    assert "upstream: 550 5.2.2 mailbox full" in adding.must("audit", "show", id)
    mta.behaviours[:] = [At("end", Reply("550 5.7.1 filtered"))]
    before = len(records(adding))
    assert adding.send(bare(), JEANNE, PAUL) == (550, "5.7.1 filtered")  # PAUL's copy is not tried
    wait_for(lambda: [one.outcome for one in records(adding)[before:]] not in ([], [None]), "it")
    id = records(adding)[-1].decided.id
    told = json.loads(adding.must("explain", "--id", id, "--json"))["recipients"]
    assert all("once the first copy is refused" in each["notes"][-1] for each in told)


@pytest.mark.parametrize("failing", ["rcpt", "end"])
def test_failures_after_the_first_copy_are_reported_in_a_notice(
    adding: RelayProcess, mta: FakeUpstream, failing: Any
) -> None:
    nth = 5 if failing == "rcpt" else 2  # three at RCPT, then one by one
    reply = Reply("550 5.1.1 <customer@people.example> no such user")
    mta.behaviours.append(At(failing, reply, nth=nth))
    code, text = (
        adding.send(bare(), JEANNE, PAUL, sender="desk@shop.example")
        if failing == "end"
        else adding.send(bare(), JEANNE, PAUL, DESK, sender="desk@shop.example")
    )
    taken = 1 if failing == "end" else 2
    assert (code, text.partition(", one")[0]) == (
        250, f"2.0.0 relayed to {taken} of {taken + 1} recipients",
    )  # fmt: skip
    notice = next(m for m in mta.messages if m.sender == "")
    assert notice.recipients == ("desk@shop.example",)
    body = parsed(notice).as_string()
    assert "550 5.1.1" in body
    assert "Action: failed" in body
    assert "Status: 5.1.1" in body
    entry = the_record(adding, text)
    assert outcome(entry) == 250
    assert sum(each.startswith("550") for each in entry.outcome.each) == 1


def test_a_faulty_message_is_refused_to_the_client(adding: RelayProcess, mta: FakeUpstream) -> None:
    mta.behaviours.append(At("end", Reply("554 5.7.1 spam"), nth=1))
    assert adding.send(bare(), JEANNE, PAUL) == (554, "5.7.1 spam")
    assert mta.messages == []
    assert [c for _, c in mta.commands if c == "DATA"] == ["DATA"], "nobody else may be tried"


def test_a_recipient_refused_later_does_not_stop_the_first_copy(
    adding: RelayProcess, mta: FakeUpstream
) -> None:
    mta.behaviours += [At("rcpt", Reply("450 4.2.0 later"), nth=n) for n in (3, 4)]
    code, text = adding.send(bare(), JEANNE, PAUL)
    assert (code, text) == (450, "4.2.0 later")
    assert mta.messages == []


def test_losing_the_upstream_before_the_first_copy_means_retry(
    adding: RelayProcess, mta: FakeUpstream
) -> None:
    mta.behaviours.append(At("end", Close(), nth=1))
    code, text = adding.send(bare(), JEANNE, PAUL)
    assert (code, text[:5]) == (451, "4.4.2")
    assert mta.messages == []


def test_a_temporary_failure_means_retry(adding: RelayProcess, mta: FakeUpstream) -> None:
    mta.behaviours.append(At("end", Reply("452 4.3.1 full"), nth=2))
    mail = bare(message_id="<once@shop.example>")
    code, text = adding.send(mail, JEANNE, PAUL)
    assert code == 451
    assert text.startswith("4.3.1 relayed to 1 of 2 recipients, try again for the others, id=")
    assert adding.send(mail, JEANNE, PAUL)[0] == 250
    assert sorted(m.recipients for m in mta.messages) == sorted([(JEANNE,), (PAUL,)])


def test_the_null_sender_must_send_one_message_per_recipient(
    adding: RelayProcess, mta: FakeUpstream
) -> None:
    code, text = adding.send(bare(), JEANNE, PAUL, sender="")
    assert (code, text[:5]) == (554, "5.5.4")
    assert mta.messages == []
    assert adding.send(bare(), JEANNE, sender="")[0] == 250


@pytest.mark.parametrize("wish", ["NEVER", "SUCCESS,DELAY"])
def test_a_sender_with_notify_never_must_send_one_message_per_recipient(
    adding: RelayProcess, mta: FakeUpstream, wish: str
) -> None:
    """A temporary failure of the second copy would be lost: nobody would retry or be told."""
    mta.behaviours.append(At("end", Reply("451 4.3.0 later"), nth=2))
    with smtplib.SMTP("127.0.0.1", adding.port(), timeout=30) as client:
        client.ehlo("client.example")
        client.mail("news@shop.example")
        client.rcpt(JEANNE)
        client.rcpt(PAUL, [f"NOTIFY={wish}"])
        code, text = client.data(bare())
        assert (code, text[:5]) == (554, b"5.5.4")
        assert mta.messages == []
        client.mail("news@shop.example")
        client.rcpt(PAUL, [f"NOTIFY={wish}"])
        assert client.data(bare())[0] == 250


def test_two_notices_about_one_message_are_two_messages(
    filled: Callable[..., RelayProcess],
) -> None:
    """Mailboxes drop messages with a Message-ID that they know."""
    more = config(refuse_at="data") | {"policy": {"on_mixed": "split"}}
    with FakeUpstream(At("end", Reply("550 5.2.2 full"), nth=3)) as mta:
        relay = filled(mta.address, more)
        assert relay.send(bare(), JEANNE, address("withdrawn"), PAUL)[0] == 250
        notices = [parsed(message) for message in mta.messages if message.sender == ""]
        assert len(notices) == 2
        assert len({notice["Message-ID"] for notice in notices}) == 2


@pytest.mark.parametrize("nth", [1, 2])
def test_lmtp_has_a_reply_for_each_recipient(
    adding: RelayProcess, mta: FakeUpstream, nth: int
) -> None:
    mta.behaviours.append(At("end", Reply("550 5.2.2 mailbox full"), nth=nth))
    with smtplib.LMTP("127.0.0.1", adding.port("local"), timeout=30) as client:
        client.ehlo("client.example")
        client.mail("news@shop.example")
        for recipient in (JEANNE, PAUL, DESK):
            assert client.rcpt(recipient)[0] == 250
        client.docmd("DATA")
        client.send(bare() + b".\r\n")
        codes = sorted(client.getreply()[0] for _ in range(3))
    assert codes == [250, 250, 550]
    assert all(message.sender for message in mta.messages), "no notice: the client knows already"


def test_over_lmtp_a_common_refusal_holds_for_all(adding: RelayProcess, mta: FakeUpstream) -> None:
    mta.behaviours.append(At("end", Reply("554 5.6.0 no such content")))
    with smtplib.LMTP("127.0.0.1", adding.port("local"), timeout=30) as client:
        client.ehlo("client.example")
        client.mail("news@shop.example")
        before = len(mta.commands)
        for recipient in firms(5):
            assert client.rcpt(recipient)[0] == 250
        client.docmd("DATA")
        client.send(bare() + b".\r\n")
        assert [client.getreply()[0] for _ in range(5)] == [554] * 5
    assert [line for _, line in mta.commands[before:]].count("DATA") == 3


def firms(count: int) -> list[str]:
    """Generic addresses that anybody may write to."""
    return [f"contact@firm{number}.example" for number in range(count)]


def test_many_recipients_take_a_bounded_number_of_connections(
    adding: RelayProcess, mta: FakeUpstream
) -> None:
    before = mta.connections
    code, text = adding.send(bare(), *firms(60))
    assert (code, text[:31]) == (250, "2.0.0 relayed to 60 recipients,")
    assert {m.recipients[0] for m in mta.messages} == set(firms(60))
    assert len(mta.messages) == 60
    assert len({tokens(message) for message in mta.messages}) == 60
    assert mta.connections - before <= 8


def test_an_upstream_with_few_connections_gets_every_copy(
    adding: RelayProcess, mta: FakeUpstream
) -> None:
    mta.drop_connections()
    busy = Reply("421 4.7.0 too many connections")
    mta.behaviours += [At("connect", busy, Close(), nth=nth) for nth in range(2, 99)]
    assert adding.send(bare(), *firms(20))[0] == 250
    assert sorted(m.recipients[0] for m in mta.messages) == sorted(firms(20))
    assert all(message.sender for message in mta.messages), "there must be no notice of failure"


def test_a_failure_in_the_middle_ends_it_soon_and_the_sender_is_told(
    adding: RelayProcess, mta: FakeUpstream
) -> None:
    mta.behaviours += [At("end", Close(), nth=nth) for nth in range(4, 40)]
    code, text = adding.send(bare(), *firms(40))
    assert code == 451, "the notice was lost too: twice beats never"
    taken = [each for each in the_record(adding, text).outcome.each if each.startswith("250")]
    assert len(taken) == len(mta.messages) == 3
    assert len([c for _, c in mta.commands if c == "DATA"]) < 30


def test_copies_sent_before_a_kill_are_on_record(filled: Callable[..., RelayProcess]) -> None:
    """They are recorded as sent, and the outcome of the last one as unknown."""
    with FakeUpstream(At("end", Hold(), nth=2)) as mta:
        relay = filled(mta.address, config())
        with smtplib.SMTP("127.0.0.1", relay.port(), timeout=60) as client:
            client.ehlo("client.example")
            client.mail("news@shop.example")
            for recipient in (JEANNE, PAUL):
                assert client.rcpt(recipient)[0] == 250
            client.docmd("DATA")
            client.send(bare() + b".\r\n")
            mta.wait_held()
            relay.kill()
            with pytest.raises(smtplib.SMTPServerDisconnected):
                client.getreply()
        assert [m.recipients for m in mta.messages] == [(JEANNE,)]
        (entry,) = relayed(records(relay))
        assert {r.address for r in entry.decided.recipients} == {JEANNE, PAUL}
        assert entry.outcome is None


def test_the_relays_signature_covers_the_added_fields(
    filled: Callable[..., RelayProcess], tmp_path: Path
) -> None:
    keys = [KeyFile(tmp_path, "r1"), KeyFile(tmp_path, "e1", kind="ed25519")]
    with FakeUpstream() as mta:
        relay = filled(mta.address, config() | {"dkim": [key.table() for key in keys]})
        assert relay.send(bare(body="x" * 900 + "\r\n"), JEANNE, PAUL)[0] == 250
        one, two = mta.messages
        for message in (one, two):
            assert verdicts(message.data, *keys) == [True, True]
        swapped = one.data.replace(tokens(one).encode(), tokens(two).encode())
        assert verdicts(swapped, *keys) == [False, False], "the link must be signed"


def test_fields_signed_by_an_app_are_not_added(
    filled: Callable[..., RelayProcess], tmp_path: Path
) -> None:
    key = KeyFile(tmp_path)
    with FakeUpstream() as mta, NameServer(key.dns) as dns:
        relay = filled(mta.address, config() | {"dns": {"nameservers": [dns.address]}})
        names = ["from", "subject", "list-unsubscribe", "list-unsubscribe-post"]
        code, text = relay.send(signed(bare(), key, names), JEANNE)
        assert (code, text[:35]) == (550, "5.7.0 refused: unsubscribe_unsigned")
        assert relay.send(signed(marketing(), key, names), JEANNE)[0] == 250
        assert len(mta.messages) == 1


@needs("postfix")
def test_postfix_delivers_one_copy_to_each(filled: Callable[..., RelayProcess]) -> None:
    with PostfixInstance() as postfix:
        relay = filled(postfix.address, config())
        code, text = relay.send(bare(), JEANNE, PAUL, DESK)
        assert code == 250, text
        delivered = postfix.delivered(3)
        assert {each.recipient for each in delivered} == {JEANNE, PAUL, DESK}
        assert len({tokens(Accepted("", (), each.message)) for each in delivered}) == 3
        outcomes = the_record(relay, text).outcome.each
        assert len(set(outcomes)) == 3
        assert all("queued as" in each for each in outcomes)
