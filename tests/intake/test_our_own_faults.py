"""An internal failure at any step of a dialog ends that session and nothing else."""

from typing import Any

import pytest

from smtpproxy.core.relaying import RelayTransaction
from smtpproxy.intake.listener import Listener
from smtpproxy.intake.smtp import SmtpSession
from smtpproxy.relay.connection import UpstreamConnection
from smtpproxy.relay.content import Content
from smtpproxy.relay.transaction import UpstreamTransaction
from tests.intake.conftest import Listen
from tests.kit.messages import marketing
from tests.kit.ports import wait_for

AT: list[tuple[type, str]] = [
    (Listener, "admit"),
    (SmtpSession, "_admitted"),
    (SmtpSession, "_set_deadline"),
    (SmtpSession, "_answer_recipients"),
    (SmtpSession, "_content_begins"),
    (SmtpSession, "_give_up"),
    (Content, "append"),
    (Content, "pieces"),
    (Content, "close"),
    (RelayTransaction, "_offer_upstream"),
    (RelayTransaction, "_decide"),
    (RelayTransaction, "_note"),
    (UpstreamTransaction, "_send"),
    (UpstreamTransaction, "_answered"),
    (UpstreamTransaction, "begin_client_turn"),
    (UpstreamTransaction, "begin_data"),
    (UpstreamTransaction, "_data_refusal"),
    (UpstreamTransaction, "_content_answered"),
    (UpstreamConnection, "exchange"),
    (UpstreamConnection, "send_content"),
]


def broken(*_: object, **__: object) -> Any:
    raise ZeroDivisionError("a fault")


@pytest.mark.parametrize(("where", "name"), AT)
def test_the_session_ends_and_keeps_nothing(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, where: type, name: str
) -> None:
    intake = listen(streams=["offers"], default_stream="offers")
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(where, name, broken)
        with intake.client() as client:
            for line in (
                *("", "EHLO client.example", "MAIL FROM:<news@shop.example>"),
                *("RCPT TO:<consent@people.example>", "DATA", marketing() + b".\r\n", "QUIT"),
            ):
                if not said or said[-1][:1] in ("2", "3"):
                    said.append(client.say(line) if line else client.reply())
            if name != "admit":  # otherwise the session never counted as open
                intake.wait_closed()
    assert said[-1] in ("421 4.3.0 temporary_failure; closing the connection", "221 2.0.0 bye")
    assert said[-1].startswith("221 ") == (name == "_give_up")
    assert [type(error) for error in intake.unexpected] == [ZeroDivisionError]
    intake.unexpected.clear()
    wait_for(lambda: intake.pool.busy == 0, "the upstream connection to come back")
    assert not intake.door._sessions
    assert intake.door._limits.open == 0
    assert bool(intake.door.spool.in_memory) == (name == "close")
    intake.door.spool.in_memory = 0
    with intake.client() as client:
        client.greet()
        client.begin()
        assert client.say(marketing(), b".\r\n").startswith("250 ")


@pytest.mark.parametrize("name", ["admit", "_answer_recipients"])
def test_the_client_is_told_even_without_memory_for_a_report(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def no_memory(*_: object) -> Any:
        raise MemoryError

    intake = listen(streams=["offers"], default_stream="offers")
    with monkeypatch.context() as patch:
        patch.setattr(Listener if name == "admit" else SmtpSession, name, no_memory)
        patch.setattr(SmtpSession, "_report", no_memory)
        with intake.client() as client:
            if name != "admit":
                client.greet()
                client.send("MAIL FROM:<news@shop.example>", "RCPT TO:<consent@people.example>")
                assert client.reply().startswith("250 2.1.0 ")
            assert client.rest() == ["421 4.3.0 temporary_failure; closing the connection"]
    wait_for(lambda: not intake.door._sessions, "the session to end")
    with intake.client() as client:
        client.greet()
