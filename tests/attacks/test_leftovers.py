"""Leftovers that get used again: an erased address, files of the store, a connection."""

import smtplib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks.clients import SENDER, Smtp, submission
from tests.kit.audit import folder
from tests.kit.messages import marketing
from tests.kit.mta import mta as milter_client
from tests.kit.ports import LOOPBACK, wait_for
from tests.kit.relay import STREAMS, RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import At, FakeUpstream, Reply

StartFilled = Callable[..., RelayProcess]

JEANNE, STRANGER = address("consent"), address("stranger")


def config(protocol: str = "smtp", *, refuse_at: str = "rcpt") -> dict[str, object]:
    return {
        "stream": [{**STREAMS[0], "refuse_at": refuse_at}, *STREAMS[1:]],
        "listener": [listener("apps", "offers", default="offers", protocol=protocol)],
    }


# erasure


def named(relay: RelayProcess, recipient: str) -> list[str]:
    """The lines of the journal that contain the address."""
    lines = [line for path in folder(relay).glob("*") if path.is_file()
             for line in path.read_bytes().splitlines()]  # fmt: skip
    return [line.decode() for line in lines if recipient.encode() in line.lower()]


@pytest.mark.parametrize("refuse_at", ["rcpt", "data"])
def test_people_erased_after_rcpt_are_not_named_in_the_journal(
    filled: StartFilled, mta: FakeUpstream, refuse_at: str
) -> None:
    relay = filled(mta.address, config(refuse_at=refuse_at))
    with submission(Smtp, relay.port(), JEANNE) as client:
        relay.must("contact", "erase", JEANNE)
        assert named(relay, JEANNE) == []
        client.end(marketing(to="somebody@people.example"))
    assert relay.terminate() == 0  # everything pending has been written
    assert named(relay, JEANNE) == []


def test_people_erased_between_two_rcpts_are_not_named_in_the_journal(
    filled: StartFilled, mta: FakeUpstream
) -> None:
    """A refusal of somebody else starts the transaction; that of the erased person comes later."""
    relay = filled(mta.address, config())
    with submission(Smtp, relay.port()) as client:
        assert client.rcpt(STRANGER)[0] == 550
        relay.must("contact", "erase", JEANNE)
        assert client.rcpt(JEANNE)[0] == 550
    assert relay.terminate() == 0
    assert named(relay, JEANNE) == []


def test_a_milters_message_to_erased_people_does_not_name_them(
    filled: StartFilled, mta: FakeUpstream
) -> None:
    relay = filled(mta.address, config("milter"))
    with milter_client(relay.port()) as peer:
        peer.negotiate()
        peer.connect()
        peer.mail(SENDER)
        assert peer.rcpt(JEANNE).final == "c"
        relay.must("contact", "erase", JEANNE)
        peer.message(marketing(to="somebody@people.example"))
    assert relay.terminate() == 0
    assert named(relay, JEANNE) == []


def test_a_reply_that_names_erased_people_is_not_recorded(filled: StartFilled) -> None:
    """The erasure comes while the upstream has the whole message."""
    answer = Reply(f"250 2.1.5 <{JEANNE}> delivered")
    with FakeUpstream(At("end", answer)) as mta:
        relay = filled(mta.address, config())
        with submission(Smtp, relay.port(), JEANNE) as client:
            client.docmd("DATA")
            client.send(marketing(to="somebody@people.example"))
            relay.must("contact", "erase", JEANNE)
            client.send(b".\r\n")
            client.answers()
        assert relay.terminate() == 0
        assert named(relay, JEANNE) == []


# the store's side files


@pytest.mark.parametrize(
    "names",
    [("-wal", "-shm"), ("-shm",), ("-wal",)],
    ids="and".join,
)
def test_a_suppression_counts_even_after_the_side_files_were_removed(
    filled: StartFilled, names: tuple[str, ...]
) -> None:
    with FakeUpstream() as mta:
        relay = filled(mta.address, config() | {"web": {}})
        assert relay.send(marketing(), JEANNE)[0] == 250
        store = relay.config["store"]["url"].removeprefix("sqlite://")
        for name in names:
            Path(store + name).unlink()
        code, _, error = relay.command("suppress", "add", JEANNE, "--origin", "complaint")
        refused, text = relay.send(marketing(), JEANNE)
        assert len(mta.messages) == 1
        if code == 0:
            assert (refused, "suppressed_complaint" in text) == (550, True) or refused == 451
        else:
            assert "Traceback" not in error
        if refused == 451:
            wait_for(lambda: not relay.ready(), "/readyz to tell of it")


# connections to the upstream


@pytest.fixture(scope="module")
def shared(filled: StartFilled, mta: FakeUpstream) -> RelayProcess:
    return filled(mta.address, config())


@pytest.mark.parametrize("refusal", ["502 5.5.1 not implemented", "451 4.3.0 later"])
def test_an_upstream_that_rejects_rset_does_not_harm_the_next_message(
    shared: RelayProcess, mta: FakeUpstream, refusal: str
) -> None:
    mta.begin(At("rset", Reply(refusal)))
    with submission(Smtp, shared.port(), JEANNE) as client:
        assert client.rset()[0] == 250
    for _ in range(3):
        assert shared.send(marketing(), JEANNE) == (250, "2.0.0 queued as FAKE")
    assert len(mta.messages) == 3


def test_a_refused_message_before_an_upstream_that_rejects_rset(
    shared: RelayProcess, mta: FakeUpstream
) -> None:
    """Within one session: the next message must be independent."""
    mta.begin(At("rset", Reply("502 5.5.1 not implemented")))
    with smtplib.SMTP(LOOPBACK, shared.port(), timeout=60) as client:
        client.ehlo("client.example")
        for mail, code in ((marketing(unsubscribe=None), 550), (marketing(), 250)):
            client.mail(SENDER)
            assert client.rcpt(JEANNE)[0] == 250
            assert client.data(mail)[0] == code
    assert len(mta.messages) == 1
