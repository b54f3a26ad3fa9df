"""The milter intake with an MTA of the kit: its answers, edits and records."""

import threading
import time

import pytest

from smtpproxy.events import (
    Client,
    ConnectionRefused,
    Decided,
    Failed,
    Limited,
    TransactionEnded,
)
from smtpproxy.intake.milter_message import client_address
from smtpproxy.sinks.audit.journal import AuditUnavailable
from smtpproxy.store.records import StoreUnavailable
from tests.intake.conftest import Listen
from tests.intake.listening import Intake
from tests.kit.messages import marketing, message
from tests.kit.mta import Mta, encode, mta, strings
from tests.kit.ports import wait_for
from tests.kit.upstream import At, FakeUpstream, Hold, Reply

SENDER = "news@shop.example"
CERTAIN = {"streams": ["offers"], "default_stream": "offers"}
SENDMAIL = "8.17.1.9"


@pytest.fixture
def milter(listen: Listen) -> Intake:
    return listen(protocol="milter")


@pytest.fixture
def certain(listen: Listen) -> Intake:
    return listen(protocol="milter", **CERTAIN)


def begin(peer: Mta, *recipients: str, sender: str = SENDER, version: str = "Postfix 3.7") -> None:
    peer.negotiate()
    peer.connect(version)
    peer.mail(sender)
    for recipient in recipients:
        assert peer.rcpt(recipient).final == "c"


def test_a_permitted_message_passes_and_is_recorded(milter: Intake) -> None:
    with mta(milter.port) as peer:
        peer.negotiate()
        peer.connect()
        peer.mail(SENDER, auth_authen="shop", i="")
        assert peer.rcpt("consent@people.example").final == "c"
        mail = marketing()
        outcome = peer.message(mail, "4XyZ")
        assert (outcome.final, outcome.edits) == ("c", [])
    (decided,) = milter.records.decided
    assert decided.client == Client("apps", "192.0.2.9", "client.example", "shop", "4XyZ")
    assert (decided.stage, decided.relayed, decided.size) == ("data", True, len(mail))
    assert [r.address for r in decided.recipients] == ["consent@people.example"]
    (told,) = milter.records.relayed
    assert (told.id, told.code) == (decided.id, 250)
    assert told.reply == "250 2.0.0 left to the MTA as 4XyZ; its own answer is not known here"
    assert len(milter.of(TransactionEnded)) == 1


def test_the_milter_requests_only_the_steps_it_needs(milter: Intake) -> None:
    with mta(milter.port) as peer:
        peer.negotiate()
        assert peer.version == 6
        assert peer.actions == 0x8 | 0x10 | 0x100
        assert peer.steps == 0x100 | 0x200 | 0x40 | 0x1000 | 0x2000 | 0x4000 | 0x80 | 0x80000 | (
            0x100000
        )
        assert peer.wanted_macros[2] == ["i", "{auth_authen}"]


@pytest.mark.parametrize(
    ("version", "actions", "steps"),
    [(2, 0x3F, 0x7F), (3, 0x3F, 0x1FF), (4, 0x3F, 0x3FF), (6, 0x1FF, 0x1FFFFF), (9, 0x1FF, 0)],
)
def test_older_mtas_get_the_same_decisions(
    certain: Intake, version: int, actions: int, steps: int
) -> None:
    """They need an answer to every command."""
    with mta(certain.port) as peer:
        peer.negotiate(version, actions, steps)
        assert peer.version == min(version, 6)
        assert not peer.actions & ~actions
        assert not peer.steps & ~steps
        peer.connect()
        peer.mail(SENDER)
        assert peer.rcpt("withdrawn@people.example").final == "y"
        assert peer.rcpt("consent@people.example").final == "c"
        folded = marketing(headers=[("X-Long", "a\r\n\tb\r\n c")])
        outcome = peer.message(folded)
        assert outcome.final == "c"
    assert certain.records.decided[-1].size == len(folded)


def test_recipients_are_refused_at_rcpt(certain: Intake) -> None:
    with mta(certain.port) as peer:
        begin(peer, "consent@people.example")
        outcome = peer.rcpt("Withdrawn@People.Example")
        assert outcome.final == "y"
        id = certain.records.decided[0].id
        assert outcome.reply == (
            "550 5.7.1 <Withdrawn@People.Example> refused: consent_withdrawn"
            f" (stream offers) id={id}"
        )
        assert peer.message(marketing()).final == "c"
    assert [d.stage for d in certain.records.decided] == ["rcpt", "data"]
    assert [r.address for r in certain.records.decided[1].recipients] == ["consent@people.example"]


@pytest.mark.parametrize("path", ["", "no at", "a@b@c", "@people.example", "x@-.example", "%s@x y"])
def test_a_malformed_address_is_refused(certain: Intake, path: str) -> None:
    with mta(certain.port) as peer:
        begin(peer)
        assert peer.rcpt(path).reply.startswith("553 5.1.3 ")


def test_a_percent_sign_is_escaped(certain: Intake) -> None:
    with mta(certain.port) as peer:
        begin(peer)
        assert "<50%s@people.example>" in peer.rcpt("50%s@people.example").reply


def test_a_message_is_refused_at_its_end(milter: Intake) -> None:
    with mta(milter.port) as peer:
        begin(peer, "consent@people.example")
        outcome = peer.message(marketing(unsubscribe=None))
        assert outcome.final == "y"
        assert outcome.reply.startswith("550 5.7.0 refused: unsubscribe_missing (stream offers)")
    assert milter.records.relayed == []


@pytest.mark.parametrize("numbers", [[1], [3, 2, 1]])
def test_the_stream_header_is_removed(milter: Intake, numbers: list[int]) -> None:
    """The last goes first, since each removal renumbers the fields after it."""
    with mta(milter.port) as peer:
        begin(peer, "stranger@people.example")
        repeated = [("X-MAIL-STREAM", "receipts")] * (len(numbers) - 1)
        outcome = peer.message(message(stream="receipts", headers=repeated))
        assert outcome.final == "c"
        assert outcome.edits == [
            ("m", bytes((0, 0, 0, number)) + b"X-Mail-Stream\0\0") for number in numbers
        ]


def test_an_mta_that_accepts_no_header_changes_gets_none(milter: Intake) -> None:
    with mta(milter.port) as peer:
        peer.negotiate(actions=0x1FF & ~0x10)  # without SMFIF_CHGHDRS
        peer.connect()
        peer.mail(SENDER)
        assert peer.rcpt("stranger@people.example").final == "c"
        outcome = peer.message(message(stream="receipts"))
        assert (outcome.final, outcome.edits) == ("c", [])


@pytest.mark.parametrize(("steps", "space"), [(0x1FFFFF, b" "), (0xFFFFF, b"")])
def test_encoded_words_in_list_unsubscribe_are_decoded(
    milter: Intake, steps: int, space: bytes
) -> None:
    encoded = "=?utf-8?q?=3Chttps=3A//u=2Eshop=2Eexample/AZm2=3E?=, <mailto:stop@shop.example>"
    plain = b"<https://u.shop.example/AZm2>,\n <mailto:stop@shop.example>"
    signature = ("DKIM-Signature", "v=1; d=shop.example; h=from:list-unsubscribe; b=YQ==")
    with mta(milter.port) as peer:
        peer.negotiate(steps=steps)
        peer.connect()
        peer.mail(SENDER)
        assert peer.rcpt("consent@people.example").final == "c"
        outcome = peer.message(marketing(unsubscribe=encoded))
        assert outcome.final == "c"
        assert outcome.edits == [("m", b"\0\0\0\1List-Unsubscribe\0" + space + plain + b"\0")]
        peer.mail(SENDER)
        assert peer.rcpt("consent@people.example").final == "c"
        outcome = peer.message(marketing(unsubscribe=encoded, headers=[signature]))
        assert outcome.edits == []


def test_observe_mode_lets_everything_pass(listen: Listen, upstream: FakeUpstream) -> None:
    intake = listen({"policy": {"mode": "observe", "on_mixed": "split"}}, protocol="milter")
    with mta(intake.port) as peer:
        begin(peer, "consent@people.example", "withdrawn@people.example")
        outcome = peer.message(marketing(unsubscribe=None))
        assert (outcome.final, outcome.edits) == ("c", [])
        intake.records.error = AuditUnavailable("disk full")
        peer.mail(SENDER)
        assert peer.rcpt("complained@people.example").final == "c"
        assert peer.message(marketing()).final == "c"
    assert intake.of(Decided)[0].observed
    assert [failed.part for failed in intake.of(Failed)] == ["audit"]
    assert upstream.messages == []


# some recipients refused only at the end


def test_mixed_is_refused_for_all_and_names_the_refused(milter: Intake) -> None:
    with mta(milter.port) as peer:
        begin(peer, "consent@people.example", "withdrawn@people.example")
        outcome = peer.message(marketing())
        assert outcome.final == "y"
        assert "<withdrawn@people.example> refused: consent_withdrawn" in outcome.reply
        assert outcome.edits == []


@pytest.fixture
def splitting(listen: Listen) -> Intake:
    return listen({"policy": {"on_mixed": "split"}}, protocol="milter")


def test_split_removes_refused_recipients_and_tells_the_sender(
    splitting: Intake, upstream: FakeUpstream
) -> None:
    with mta(splitting.port) as peer:
        begin(peer, "consent@people.example", "Withdrawn@People.example", "customer@people.example")
        outcome = peer.message(marketing(stream="offers"))
        assert outcome.final == "c"
        assert outcome.deleted == ["<Withdrawn@People.example>"]
        assert [letter for letter, _ in outcome.edits] == ["-", "m"]
    (notice,) = upstream.messages
    assert (notice.sender, notice.recipients) == ("", (SENDER,))
    assert b"<Withdrawn@People.example> refused: consent_withdrawn" in b" ".join(
        notice.data.split()
    )
    _, told = splitting.records.relayed  # the notice's answer comes first
    assert (told.code, told.recipients) == (250, 2)


def test_split_reports_progress_while_it_waits_for_the_notice(
    splitting: Intake, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smtpproxy.intake.milter._PROGRESS", 0.05)
    upstream.behaviours.append(At("end", Hold()))
    with mta(splitting.port) as peer:
        begin(peer, "consent@people.example", "withdrawn@people.example")
        threading.Timer(0.4, upstream.release).start()
        outcome = peer.message(marketing())
        assert outcome.final == "c"
        assert outcome.progress >= 3


def test_nobody_is_removed_without_a_notice(splitting: Intake, upstream: FakeUpstream) -> None:
    upstream.behaviours.append(At("end", Reply("452 4.3.1 full")))
    with mta(splitting.port) as peer:
        begin(peer, "consent@people.example", "withdrawn@people.example")
        outcome = peer.message(marketing())
        assert (outcome.final, outcome.edits) == ("y", [])
        assert outcome.reply.startswith("451 4.4.0 ")
    _, told = splitting.records.relayed  # the notice's answer comes first
    assert (told.code, told.recipients) == (451, 0)


@pytest.mark.parametrize("why", ["null", "no DELRCPT", "local", "cyrusv2", "no mailer"])
def test_all_are_refused_where_split_cannot_tell_the_sender(
    splitting: Intake, upstream: FakeUpstream, why: str
) -> None:
    with mta(splitting.port) as peer:
        peer.negotiate(actions=0x1F7 if why == "no DELRCPT" else 0x1FF)
        peer.connect("Postfix 3.7" if why in ("null", "no DELRCPT") else SENDMAIL)
        peer.mail("" if why == "null" else SENDER)
        told = {"{rcpt_mailer}": why} if why in ("local", "cyrusv2") else {}
        assert peer.rcpt("consent@people.example", **told).final == "c"
        assert peer.rcpt("withdrawn@people.example", **told).final == "c"
        outcome = peer.message(marketing())
        assert (outcome.final, outcome.edits) == ("y", [])
    assert upstream.messages == []


def test_sendmail_can_remove_remote_recipients(splitting: Intake) -> None:
    with mta(splitting.port) as peer:
        peer.negotiate()
        peer.connect(SENDMAIL)
        peer.mail(SENDER, i="q1")
        remote = {"{rcpt_mailer}": "esmtp"}
        peer.rcpt("consent@people.example", **remote)
        peer.rcpt("withdrawn@people.example", **remote)
        assert peer.message(marketing()).deleted == ["<withdrawn@people.example>"]


def test_sendmail_names_a_message_before_its_recipients(certain: Intake) -> None:
    with mta(certain.port) as peer:
        peer.negotiate()
        peer.connect(SENDMAIL)
        peer.mail(SENDER, i="q1")
        assert peer.rcpt("withdrawn@people.example").reply.startswith("550 5.7.1 ")
    (decided,) = certain.records.decided
    assert decided.client.queue_id == "q1"


@pytest.mark.parametrize(
    ("told", "family", "address", "recorded"),
    [
        ("192.0.2.9", "4", "127.0.0.1", "192.0.2.9"),
        ("IPv6:2001:db8::1", "6", "", "2001:db8::1"),
        (None, "6", "ipv6:2001:db8::1", "2001:db8::1"),
        (None, "L", "/run/mta.sock", "unix"),
        (None, "U", "", "unknown"),
    ],
)
def test_the_client_of_the_mta_is_recorded(
    told: str | None, family: str, address: str, recorded: str
) -> None:
    assert client_address(lambda _: told, family, address) == recorded


# mail that reached Postfix without SMTP


def test_postfix_cleanup_gets_no_refusal_before_the_end(certain: Intake) -> None:
    """To it a refusal at RCPT is a configuration error, which would jam the message."""
    with mta(certain.port) as peer:
        peer.negotiate()
        peer.connect()
        peer.mail(SENDER, i="4QID")
        assert peer.rcpt("withdrawn@people.example").final == "c"
        assert "consent_withdrawn" in peer.message(marketing()).reply
        peer.mail(SENDER, i="4QIE")
        assert peer.rcpt("no address").final == "c"
        assert peer.message(marketing()).reply.startswith("553 5.1.3")
        peer.mail("no address", i="4QIF")
        assert peer.rcpt("withdrawn@people.example").final == "c"
        assert peer.message(marketing()).reply.startswith("553 5.1.7")
    assert [d.stage for d in certain.records.decided] == ["data"]


# many messages on one connection


def test_each_message_starts_afresh(milter: Intake) -> None:
    with mta(milter.port) as peer:
        begin(peer, "consent@people.example", "customer@people.example")
        assert peer.message(message(stream="receipts"), "4A").edits != []
        peer.mail("other@shop.example")
        assert peer.rcpt("consent@people.example").final == "c"
        outcome = peer.message(marketing(), "4B")
        assert (outcome.final, outcome.edits) == ("c", [])
    first, second = milter.records.decided
    assert [r.address for r in second.recipients] == ["consent@people.example"]
    assert (second.reverse_path, second.client.queue_id) == ("other@shop.example", "4B")
    assert first.id != second.id
    assert second.decision.stream.name == "offers"


@pytest.mark.parametrize("ending", ["A", "H", "M"])
def test_an_aborted_message_leaves_nothing(milter: Intake, ending: str) -> None:
    with mta(milter.port) as peer:
        peer.negotiate()
        peer.connect()
        peer.mail(SENDER, auth_authen="shop")
        peer.rcpt("customer@people.example")
        peer.send(encode("L", strings("X-Mail-Stream", " receipts")))
        if ending != "M":
            peer.send(encode(ending, strings("again.example") if ending == "H" else b""))
        peer.mail(SENDER)
        assert peer.rcpt("consent@people.example").final == "c"
        assert peer.message(marketing()).final == "c"
    (decided,) = milter.records.decided
    assert [r.address for r in decided.recipients] == ["consent@people.example"]
    assert decided.client.login == ""
    assert decided.decision.stream.name == "offers"
    assert decided.client.helo == ("again.example" if ending == "H" else "client.example")


def test_the_next_client_on_a_connection_is_known(milter: Intake) -> None:
    with mta(milter.port) as peer:
        begin(peer, "consent@people.example")
        peer.message(marketing())
        peer.send(encode("K"))
        peer.connect(address="2001:db8::7", helo="second.example")
        peer.mail(SENDER)
        peer.rcpt("consent@people.example")
        assert peer.message(marketing()).final == "c"
        peer.send(encode("Q"))
        milter.wait_closed()
    clients = [decided.client for decided in milter.records.decided]
    assert [(c.peer, c.helo) for c in clients] == [
        ("192.0.2.9", "client.example"),
        ("2001:db8::7", "second.example"),
    ]


def test_large_messages(milter: Intake) -> None:
    """The body is counted for the record but not kept."""
    with mta(milter.port) as peer:
        begin(peer, "consent@people.example")
        mail = marketing(body="x" * 5_000_000)
        assert peer.message(mail).final == "c"
        assert milter.records.decided[0].size == len(mail)
        peer.mail(SENDER)
        peer.rcpt("consent@people.example")
        limit = milter.settings.server.data_size_limit
        assert peer.message(marketing() + b"z" * limit).reply.startswith("552 5.3.4 ")
        peer.mail(SENDER)
        peer.rcpt("consent@people.example")
        assert peer.message(marketing() + b"\0").reply.startswith("554 5.6.0 ")
        peer.mail(SENDER)
        peer.rcpt("consent@people.example")
        long = "".join(f"X-{n}: {'v' * 60_000}\r\n" for n in range(80)).encode()
        assert peer.message(long + marketing()).reply.startswith("552 5.3.4 header section")


def test_too_many_recipients(listen: Listen) -> None:
    intake = listen(protocol="milter", max_recipients=2)
    with mta(intake.port) as peer:
        begin(peer, "consent@people.example", "customer@people.example")
        assert peer.rcpt("desk@people.example").reply.startswith("452 4.5.3 ")
        assert peer.message(marketing()).final == "c"


def test_too_many_refused_recipients(listen: Listen) -> None:
    intake = listen(protocol="milter", streams=["offers"], max_refused_recipients=1)
    with mta(intake.port) as peer:
        begin(peer, "consent@people.example")
        assert peer.rcpt("withdrawn@people.example").reply.startswith("550 ")
        assert peer.rcpt("customer@people.example").reply.startswith("452 4.5.3 ")
        assert peer.message(marketing()).final == "c"
        peer.mail(SENDER)
        assert peer.rcpt("customer@people.example").final == "c"
    assert [limited.limit for limited in intake.of(Limited)] == ["refused_recipients"]


# internal failures


def test_a_missing_store_defers(certain: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*args: object) -> None:
        raise StoreUnavailable("gone")

    with mta(certain.port) as peer:
        begin(peer)
        monkeypatch.setattr(certain.store, "read", away)
        assert peer.rcpt("consent@people.example").reply == "451 4.3.0 temporary_failure"
        peer.mail(SENDER, i="4QID")  # cleanup
        assert peer.rcpt("consent@people.example").final == "c"
        assert peer.message(marketing()).reply.startswith("451 4.3.0 ")


def test_a_failing_journal_defers(certain: Intake) -> None:
    with mta(certain.port) as peer:
        begin(peer, "consent@people.example")
        certain.records.error = AuditUnavailable("disk full")
        assert peer.rcpt("withdrawn@people.example").reply == "451 4.3.0 temporary_failure"
        outcome = peer.message(marketing())
        assert (outcome.reply, outcome.edits) == ("451 4.3.0 temporary_failure", [])
    assert certain.records.relayed == []


def test_a_fault_of_the_program_defers(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    intake = listen(protocol="milter")

    async def fault(*args: object, **more: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("smtpproxy.core.advice.MilterTransaction.message", fault)
    with mta(intake.port) as peer:
        begin(peer, "consent@people.example")
        assert peer.message(marketing()).reply == "451 4.3.0 temporary_failure"
        with pytest.raises(EOFError):
            peer.read()
    assert intake.wait_closed() == ["error"]
    assert len(intake.unexpected) == 1
    intake.unexpected.clear()


# connections


@pytest.mark.parametrize(
    "hostile",
    [
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\1M",
        b"\0\0\0\5O\0\0\0\6",
        b"\0\0\0\1Z",
    ],
)
def test_hostile_packets_end_the_connection(milter: Intake, hostile: bytes) -> None:
    with mta(milter.port) as peer:
        peer.send(hostile)
        with pytest.raises(EOFError):
            peer.read()
    assert milter.wait_closed() == ["protocol"]
    assert [failed.part for failed in milter.of(Failed)] == ["protocol"]


def trickle(peer: Mta) -> None:
    for _ in range(100):
        peer.send(b"x")
        time.sleep(0.05)


def test_an_unfinished_packet_times_out(listen: Listen) -> None:
    intake = listen(protocol="milter", command_timeout="0.2s", data_timeout="30s")
    with mta(intake.port) as silent, mta(intake.port) as slow:
        silent.send(b"\0\0\0\x0dO\0\0")
        with pytest.raises(EOFError):
            silent.read()
        slow.send(b"\0\0\x10\0B")
        with pytest.raises(ConnectionError):
            trickle(slow)
    assert intake.wait_closed(2) == ["timeout"] * 2


def test_a_silent_mta_times_out(listen: Listen) -> None:
    intake = listen(protocol="milter", data_timeout="0.3s", command_timeout="30s")
    with mta(intake.port) as peer:
        peer.negotiate()
        with pytest.raises(EOFError):
            peer.read()
    assert intake.wait_closed() == ["timeout"]


def test_a_connection_too_many_is_closed(listen: Listen) -> None:
    intake = listen(protocol="milter", max_connections=1)
    with mta(intake.port) as first:
        first.negotiate()
        with mta(intake.port) as second, pytest.raises(EOFError):
            second.negotiate()
        assert len(intake.of(ConnectionRefused)) == 1


def test_the_milter_on_a_unix_socket(
    listen: Listen, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("m") / "s"
    intake = listen(protocol="milter", address=f"unix:{path}")
    with intake.client() as client:
        peer = Mta(client.socket)
        begin(peer, "consent@people.example")
        assert peer.message(marketing()).final == "c"


def test_draining_ends_idle_connections_and_finishes_messages(listen: Listen) -> None:
    intake = listen(protocol="milter")
    with mta(intake.port) as idle, mta(intake.port) as busy:
        idle.negotiate()
        begin(busy, "consent@people.example")
        drained = intake.call(intake.door.drain())
        with pytest.raises(EOFError):
            idle.read()
        assert not drained.done()
        assert busy.message(marketing()).final == "c"
        with pytest.raises(EOFError):
            busy.read()
        drained.result(10)
    assert sorted(intake.wait_closed(2)) == ["shutdown", "shutdown"]


def test_an_mta_that_disconnects_in_mid_message(milter: Intake) -> None:
    with mta(milter.port) as peer:
        begin(peer, "consent@people.example")
    assert milter.wait_closed() == ["eof"]
    wait_for(lambda: not milter.door._sessions, "the session to be gone")
    assert milter.records.decided == []
