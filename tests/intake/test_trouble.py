"""Internal failures: the client gets 451 or 421, nothing passes and nothing leaks."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.events import Failed
from smtpproxy.sinks.audit.journal import AuditUnavailable
from tests.intake.conftest import Listen
from tests.intake.listening import Intake
from tests.kit.disk import fill, tiny_disk
from tests.kit.messages import marketing, message
from tests.kit.parts import needs
from tests.kit.ports import wait_for
from tests.kit.upstream import At, Close, FakeUpstream, Reply

TEMPORARY = "451 4.3.0 temporary_failure"


def failures(intake: Intake) -> list[str]:
    return [event.part for event in intake.of(Failed)]


def test_a_store_that_fails_at_rcpt_defers(listen: Listen, upstream: FakeUpstream) -> None:
    intake = listen(streams=["offers"], default_stream="offers")
    intake.store.fail_with = "database is locked"
    with intake.client() as client:
        client.greet()
        client.say("MAIL FROM:<news@shop.example>")
        assert client.say("RCPT TO:<consent@people.example>") == TEMPORARY
        assert client.say("DATA") == TEMPORARY
        intake.store.fail_with = None
        assert client.say("RCPT TO:<consent@people.example>").startswith("250 ")
        assert client.say("DATA").startswith("354 ")
        assert client.say(marketing(), b".\r\n").startswith("250 ")
    assert failures(intake) == ["store"]
    assert len(upstream.messages) == 1


def test_a_journal_that_fails_before_the_end_of_data_defers(
    listen: Listen, upstream: FakeUpstream
) -> None:
    """The upstream has answered DATA by then, but must not get the end of data."""
    intake = listen()
    with intake.client() as client:
        client.greet()
        client.begin()
        intake.records.error = AuditUnavailable("No space left on device")
        assert client.say(marketing(), b".\r\n") == TEMPORARY
        intake.records.error = None
        client.begin("customer@people.example")
        assert client.say(marketing(), b".\r\n").startswith("250 ")
    assert [each.recipients for each in upstream.messages] == [("customer@people.example",)]
    assert failures(intake) == ["audit"]


def test_a_refusal_that_cannot_be_recorded_is_deferred(
    listen: Listen, upstream: FakeUpstream
) -> None:

    intake = listen(streams=["offers"], default_stream="offers")
    intake.records.error = AuditUnavailable("No space left on device")
    with intake.client() as client:
        client.greet()
        client.say("MAIL FROM:<news@shop.example>")
        assert client.say("RCPT TO:<stranger@people.example>") == TEMPORARY


@pytest.mark.parametrize("where", ["rcpt", "data"])
def test_a_fault_of_the_program_passes_nothing_and_keeps_nothing(
    listen: Listen, upstream: FakeUpstream, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    intake = listen(
        {"upstream": {"max_connections": 1}}, streams=["offers"], default_stream="offers"
    )

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a fault")

    for _ in range(3):
        with intake.client() as client:
            client.greet()
            if where == "rcpt":
                intake.store.fail_with = None
                monkeypatch.setattr(intake.store, "read", broken)
                client.send("MAIL FROM:<news@shop.example>", "RCPT TO:<consent@people.example>")
                client.reply()
            else:
                client.begin()
                intake.records.error = ZeroDivisionError("a fault")
                client.send(marketing(), b".\r\n")
            assert client.rest() == ["421 4.3.0 temporary_failure; closing the connection"]
        wait_for(lambda: intake.pool.busy == 0, "the upstream connection to come back")
        intake.records.error = None
        monkeypatch.undo()
    assert failures(intake) == ["internal"] * 3
    assert [type(error) for error in intake.unexpected] == [ZeroDivisionError] * 3
    intake.unexpected.clear()
    assert upstream.messages == []
    with intake.client() as client:
        client.greet()
        client.begin()
        assert client.say(marketing(), b".\r\n").startswith("250 ")


def test_an_upstream_lost_after_rcpt_is_replaced(listen: Listen, upstream: FakeUpstream) -> None:
    """Nothing has been sent yet that could arrive twice."""
    intake = listen()
    with intake.client() as client:
        client.greet()
        client.begin()
        upstream.drop_connections()
        wait_for(lambda: intake.pool.idle == 0, "the loss to be seen")
        assert client.say(marketing(), b".\r\n").startswith("250 ")
    assert len(upstream.messages) == 1


def test_recipients_after_the_upstream_was_lost(listen: Listen, upstream: FakeUpstream) -> None:
    upstream.behaviours.append(At("rcpt", Close(), to="customer@people.example"))
    intake = listen()
    with intake.client() as client:
        client.greet()
        client.say("MAIL FROM:<news@shop.example>")
        assert client.say("RCPT TO:<consent@people.example>").startswith("250 ")
        for _ in range(2):
            assert client.say("RCPT TO:<customer@people.example>").startswith("451 4.4.2 ")
        assert client.say("DATA").startswith("354 ")
        assert client.say(marketing(), b".\r\n").startswith("250 ")
    (mail,) = upstream.messages
    assert mail.recipients == ("consent@people.example",)


def test_all_lines_of_the_upstreams_reply_reach_the_client(
    listen: Listen, upstream: FakeUpstream
) -> None:
    upstream.behaviours.append(At("end", Reply("550 5.7.1 spam\n550 5.7.1 see https://up.example")))
    intake = listen()
    with intake.client() as client:
        client.greet()
        client.begin()
        client.send(marketing(), b".\r\n", "QUIT")
        assert client.rest() == [
            "550-5.7.1 spam",
            "550 5.7.1 see https://up.example",
            "221 2.0.0 bye",
        ]
    (outcome,) = intake.records.relayed
    assert (outcome.code, outcome.reply) == (
        550,
        "550-5.7.1 spam / 550 5.7.1 see https://up.example",
    )


# spool


def test_a_large_message_passes_through_the_disk_unchanged(
    listen: Listen, upstream: FakeUpstream
) -> None:
    intake = listen({"server": {"spool_threshold": "64KiB"}})
    body = "".join(f"{number} {'x' * 60}\r\n.{number}\r\n" for number in range(30_000))
    data = message(sender="orders@shop.example", stream="receipts", body=body)
    with intake.client(timeout=60) as client:
        client.greet()
        client.begin()
        assert client.say(data.replace(b"\r\n.", b"\r\n.."), b".\r\n").startswith("250 ")
    (mail,) = upstream.messages
    assert mail.data.endswith(body.encode())
    assert mail.data.count(b"X-Mail-Stream") == 0
    assert list(intake.spool.iterdir()) == []


@needs("tmpfs")
def test_a_full_spool_defers_the_message(
    listen: Listen, upstream: FakeUpstream, tmp_path: Path
) -> None:
    intake = listen({"server": {"spool_threshold": "64KiB"}})
    with tiny_disk(intake.spool, "256k"), intake.client(timeout=60) as client:
        client.greet()
        client.begin()
        large = marketing(body="x" * 70 + "\r\n" + "y\r\n" * 300_000)
        assert client.say(large, b".\r\n") == "452 4.3.1 no space for the message now; try later"
        assert failures(intake) == ["spool"]
        fill(intake.spool)
        client.begin()
        assert client.say(marketing(), b".\r\n").startswith("250 ")  # a small message needs no disk
        (intake.spool / "filler").unlink()
        client.begin()
        body = "y\r\n" * 40_000
        assert client.say(marketing(body=body), b".\r\n").startswith("250 ")
    assert len(upstream.messages) == 2


def test_a_missing_spool_defers_the_message(listen: Listen, upstream: FakeUpstream) -> None:
    intake = listen({"server": {"spool_threshold": "64KiB"}})
    intake.spool.rmdir()
    with intake.client() as client:
        client.greet()
        client.begin()
        large = marketing(body="y\r\n" * 300_000)
        assert client.say(large, b".\r\n").startswith("452 4.3.1 ")
        assert client.say("NOOP") == "250 2.0.0 OK"
    intake.spool.mkdir()
    assert upstream.messages == []


def test_files_of_the_spool_are_closed_however_a_session_ends(
    listen: Listen, upstream: FakeUpstream
) -> None:
    intake = listen({"server": {"spool_threshold": "64KiB"}}, data_timeout="1s")

    def kept() -> int:
        """The number of open files in the spool; they have no names."""
        links = []
        for path in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                links.append(str(path.readlink()))
        return sum(link.startswith(str(intake.spool)) for link in links)

    large = marketing(body="y\r\n" * 300_000)
    for end in (b"", b"a\nb\r\n", b"\0\r\n.\r\n"):
        with intake.client() as client:
            client.greet()
            client.begin()
            client.send(large)
            wait_for(kept, "the message to be on disk")
            client.send(end)
            if end:
                client.reply()
        wait_for(lambda: not kept(), "the file to be closed")
    with intake.client() as client:
        client.greet()
        client.begin()
        client.send(large)
        assert client.rest() == ["421 4.4.2 timeout; closing the connection"]
        wait_for(lambda: not kept(), "the file to be closed")


@pytest.mark.parametrize("tls", ["none", "implicit"])
def test_attempts_at_an_upstream_that_is_down_leave_nothing_behind(
    listen: Listen, upstream: FakeUpstream, tls: str
) -> None:
    """Each used to leave an unmade connection whose deadline was checked for ever."""
    intake = listen({"upstream": {"tls": tls}}, streams=["offers"], default_stream="offers")
    upstream.stop()
    with intake.client() as client:
        client.greet()
        for _ in range(20):
            client.send("MAIL FROM:<news@shop.example>", "RCPT TO:<consent@people.example>", "RSET")
            assert client.replies(3)[1].startswith("451 4.4.1 ")
        assert len(intake.door.deadlines._watched) == 1  # the client's own deadline
