"""`verp = true`: what the upstream gets, and what stays unchanged."""

import smtplib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.mail.return_path import ReturnPath, ReturnPaths
from smtpproxy.store.link_keys import load_link_keys
from tests.kit.messages import marketing, message
from tests.kit.ports import LOOPBACK
from tests.kit.relay import STREAMS, RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import Accepted, At, FakeUpstream, Reply

JEANNE, PAUL, DESK = address("consent"), address("customer"), address("desk")
DOMAIN = "bounces.shop.example"
RETURNING = [{**stream, "verp": stream["name"] != "receipts"} for stream in STREAMS]
RETURNING[-1] |= {"alignment": "strict"}  # b2b


def config() -> dict[str, Any]:
    return {
        "feedback": {"domain": DOMAIN},
        "stream": RETURNING,
        "listener": [
            listener("apps", "offers", "receipts", default="offers"),
            listener("certain", "offers", default="offers"),
            listener("aligned", "b2b", default="b2b"),
            listener("local", "offers", default="offers", protocol="lmtp"),
        ],
    }


@pytest.fixture(scope="module")
def relay(mta: FakeUpstream, filled: Callable[..., RelayProcess]) -> RelayProcess:
    return filled(mta.address, config())


@pytest.fixture
def sent(mta: FakeUpstream) -> list[Accepted]:
    mta.begin()
    return mta.messages


def read(relay: RelayProcess, sender: str) -> tuple[ReturnPaths, ReturnPath]:
    keys = load_link_keys(Path(relay.config["server"]["state_dir"]))
    paths = ReturnPaths({key.version: key.secret for key in keys.values()}, DOMAIN)
    local_part, _, domain = sender.partition("@")
    assert domain == DOMAIN
    return paths, paths.read(local_part)


@pytest.mark.parametrize("door", ["apps", "certain"])
def test_a_single_recipient_has_its_own_reverse_path(
    relay: RelayProcess, mta: FakeUpstream, sent: list[Accepted], door: str
) -> None:
    code, text = relay.send(marketing(), JEANNE, listener=door)
    assert code == 250, text
    (one,) = sent
    paths, told = read(relay, one.sender)
    assert paths.concerns(told, JEANNE)
    assert not paths.concerns(told, PAUL)
    assert one.recipients == (JEANNE,)
    assert b"\r\n".join(one.data.split(b"\r\n")[1:]).endswith(marketing().split(b"\r\n\r\n", 1)[1])
    mails = [line for _, line in mta.commands if line.upper().startswith("MAIL")]
    assert len(mails) == (1 if door == "certain" else 2), (
        "no additional round trip for a single recipient"
    )


def test_alignment_is_checked_for_the_outgoing_reverse_path(relay: RelayProcess) -> None:
    code, text = relay.send(marketing(), address("accountant"), listener="aligned")
    assert (code, "refused: from_misaligned (stream b2b)" in text) == (550, True)


def test_several_recipients_get_one_copy_each(relay: RelayProcess, sent: list[Accepted]) -> None:
    code, text = relay.send(marketing(), JEANNE, PAUL, DESK, listener="certain")
    assert code == 250, text
    assert sorted(one.recipients for one in sent) == [(JEANNE,), (PAUL,), (DESK,)]
    for one in sent:
        paths, told = read(relay, one.sender)
        assert paths.concerns(told, one.recipients[0])
    assert len({one.sender for one in sent}) == 3


def test_other_streams_and_the_null_path_are_unchanged(
    relay: RelayProcess, sent: list[Accepted]
) -> None:
    assert relay.send(message(stream="receipts"), JEANNE)[0] == 250
    assert relay.send(marketing(), JEANNE, PAUL, sender="", listener="certain")[0] == 250
    assert [one.sender for one in sent] == ["news@shop.example", ""]


def test_a_retry_mails_only_recipients_without_a_copy(
    relay: RelayProcess, mta: FakeUpstream, sent: list[Accepted]
) -> None:
    mta.begin(At("end", Reply("451 4.2.0 later"), to=PAUL))
    letter = marketing(subject="again")
    assert relay.send(letter, JEANNE, PAUL, listener="certain")[0] == 451
    mta.behaviours.clear()
    assert relay.send(letter, JEANNE, PAUL, listener="certain")[0] == 250
    assert [one.recipients for one in mta.messages] == [(JEANNE,), (PAUL,)]


def test_a_message_without_a_message_id_gets_one(relay: RelayProcess, sent: list[Accepted]) -> None:
    assert relay.send(marketing().replace(b"Message-ID", b"X-Was"), JEANNE)[0] == 250
    (one,) = sent
    assert f"Message-ID: <{one.sender}>\r\n".encode() in one.data
    assert f"Feedback-ID: {one.sender.partition('@')[0]}::offers:smtpproxy\r\n".encode() in one.data


def test_over_lmtp_each_recipient_has_a_path_and_a_reply(
    relay: RelayProcess, mta: FakeUpstream
) -> None:
    mta.begin(At("rcpt", Reply("550 5.1.1 no such user"), to=PAUL))
    with smtplib.LMTP(LOOPBACK, relay.port("local")) as client:
        client.ehlo("client.example")
        client.mail("news@shop.example")
        codes = [client.rcpt(person)[0] for person in (JEANNE, PAUL, DESK)]
        assert codes == [250, 550, 250]
        assert client.data(marketing(subject="by LMTP"))[0] == 250
        assert client.getreply()[0] == 250, "one reply for each"
    assert sorted(one.recipients for one in mta.messages) == [(JEANNE,), (DESK,)]
    for one in mta.messages:
        paths, told = read(relay, one.sender)
        assert paths.concerns(told, one.recipients[0])
