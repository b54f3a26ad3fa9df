"""A person is suppressed at any moment between RCPT and the end of data: the mail does not pass.

Over real sockets and the real store, with two workers, at every intake and by every path of a
message to the upstream.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.kit.messages import marketing
from tests.kit.mta import mta as milter_mta
from tests.kit.policy import policy_client
from tests.kit.ports import LOOPBACK
from tests.kit.relay import STREAMS, RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import At, FakeUpstream, Hold

ANN, BOB, WITHDRAWN = address("consent"), address("customer"), address("withdrawn")
LINKS = {**STREAMS[0], "name": "links", "unsubscribe": "add"}


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as server:
        yield server


@pytest.fixture(scope="module")
def relay(upstream: FakeUpstream, filled: Callable[..., RelayProcess]) -> RelayProcess:
    names = ("offers", "links", "receipts")
    return filled(
        upstream.address,
        {
            "server": {"workers": 2},
            "stream": [*STREAMS, LINKS],
            "policy": {"on_mixed": "split"},
            "web": {"public_url": "https://unsubscribe.shop.example"},
            "listener": [
                listener("apps", *names, default="offers", early_commands="permit"),
                listener("local", *names, default="offers", protocol="lmtp"),
                listener("milter", "offers", "receipts", default="offers", protocol="milter"),
                listener("policy", "offers", default="offers", protocol="policy"),
            ],
        },
    )


@pytest.fixture
def mta(upstream: FakeUpstream) -> FakeUpstream:
    upstream.messages.clear()
    upstream._seen.clear()
    upstream._released.clear()
    upstream.behaviours.clear()
    return upstream


class Act:
    """Suppresses people, and undoes that at the end."""

    def __init__(self, relay: RelayProcess) -> None:
        self._relay = relay
        self._people: list[str] = []

    def __call__(self, person: str) -> None:
        self._people.append(person)
        self._relay.must("suppress", "add", person, "--scope", "all", "--origin", "objection")

    def undo(self) -> None:
        for person in self._people:
            self._relay.must("suppress", "remove", person, "--all", "--reason", "added by mistake")


@pytest.fixture
def suppress(relay: RelayProcess) -> Iterator[Act]:
    act = Act(relay)
    yield act
    act.undo()


class Client:
    """Sends lines and reads whole replies."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")

    def send(self, *lines: str | bytes) -> None:
        self._socket.sendall(
            b"".join(line if isinstance(line, bytes) else line.encode() + b"\r\n" for line in lines)
        )

    def reply(self) -> str:
        while (line := self._file.readline())[3:4] == b"-":
            pass
        return line.decode()

    def say(self, *lines: str | bytes) -> str:
        self.send(*lines)
        return self.reply()


@contextlib.contextmanager
def client(relay: RelayProcess, name: str) -> Iterator[Client]:
    with socket.create_connection((LOOPBACK, relay.port(name)), timeout=20) as connection:
        one = Client(connection)
        assert one.reply().startswith("220 ")
        assert one.say(f"{'LHLO' if name == 'local' else 'EHLO'} client.example").startswith("250")
        yield one


MOMENTS = ["mail", "rcpt", "354", "content", "dot"]
WAYS = ["smtp", "pipelined", "bdat", "prdr", "lmtp", "copies"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_smtp(relay: RelayProcess, mta: FakeUpstream, suppress: Act, way: str, moment: str) -> None:
    people = [ANN, BOB] if way == "copies" else [ANN]
    stream = "links" if way == "copies" else "offers"
    add = {"unsubscribe": None, "one_click": None} if way == "copies" else {}
    content = marketing(stream=stream, **add)
    half = len(content) // 2
    if moment == "dot":
        mta.behaviours.append(At("data", Hold(), to=ANN))

    def at(now: str) -> None:
        if now == moment:
            for person in people:
                suppress(person)

    with client(relay, "local" if way == "lmtp" else "apps") as peer:
        mail = "MAIL FROM:<news@shop.example>" + (" PRDR" if way == "prdr" else "")
        rcpts = [f"RCPT TO:<{person}>" for person in people]
        last = ""
        if way == "pipelined" and moment in ("354", "content", "dot"):
            peer.send(mail, *rcpts, "DATA")
            replies = [peer.reply() for _ in range(2 + len(people))]
            assert replies[-1].startswith("354 ")
        else:
            assert peer.say(mail).startswith("250 ")
            at("mail")
            replies = [peer.say(rcpt) for rcpt in rcpts]
            at("rcpt")
            if not replies[0].startswith("250 "):
                last = replies[0]
        if not last:
            if way == "bdat":
                at("354")
                assert peer.say(f"BDAT {half}", content[:half]).startswith("250 ")
                at("content")
                peer.send(f"BDAT {len(content) - half} LAST", content[half:])
            else:
                if way != "pipelined" or moment == "rcpt":
                    assert peer.say("DATA").startswith("354 ")
                at("354")
                peer.send(content[:half])
                at("content")
                peer.send(content[half:], b".\r\n")
            if moment == "dot":
                mta.wait_held()
                at("dot")
                mta.release()
            last = peer.reply()
            if last.startswith("353"):
                last = peer.reply()
    assert last.startswith("550 5.7.1 "), last
    assert [m for m in mta.messages if set(m.recipients) & {ANN, BOB}] == []


def test_the_second_copy_is_not_sent(relay: RelayProcess, mta: FakeUpstream, suppress: Act) -> None:
    """The first copy is on its way: the second recipient gets none."""
    mta.behaviours.append(At("end", Hold(), to=ANN))
    with client(relay, "apps") as peer:
        peer.send("MAIL FROM:<news@shop.example>", f"RCPT TO:<{ANN}>", f"RCPT TO:<{BOB}>", "DATA")
        assert [peer.reply()[:3] for _ in range(4)] == ["250", "250", "250", "354"]
        peer.send(marketing(stream="links", unsubscribe=None, one_click=None), b".\r\n")
        mta.wait_held()
        suppress(BOB)
        mta.release()
        assert peer.reply().startswith("250 2.0.0 relayed to 1 of 2 recipients")
    assert [m.recipients for m in mta.messages] == [(ANN,), ("news@shop.example",)]


def test_suppressed_while_the_notice_of_a_split_is_sent(
    relay: RelayProcess, mta: FakeUpstream, suppress: Act
) -> None:
    mta.behaviours.append(At("end", Hold(), to="news@shop.example"))
    with client(relay, "apps") as peer:
        rcpts = [f"RCPT TO:<{person}>" for person in (ANN, WITHDRAWN)]
        peer.send("MAIL FROM:<news@shop.example>", *rcpts, "DATA")
        assert [peer.reply()[:3] for _ in range(4)] == ["250", "250", "250", "354"]
        peer.send(marketing(stream="offers"), b".\r\n")
        mta.wait_held()
        suppress(ANN)
        mta.release()
        assert peer.reply().startswith("550 5.7.1 ")
    assert [m for m in mta.messages if ANN in m.recipients] == []


@pytest.mark.parametrize("moment", ["rcpt", "body", "notice"])
def test_milter(relay: RelayProcess, mta: FakeUpstream, suppress: Act, moment: str) -> None:
    mta.behaviours.append(At("end", Hold(), to="news@shop.example"))
    with milter_mta(relay.port("milter"), 20) as peer:
        peer.negotiate()
        peer.connect()
        peer.mail("news@shop.example")
        for person in (ANN, *([WITHDRAWN] if moment == "notice" else [])):
            assert peer.rcpt(person).final == "c"
        if moment == "rcpt":
            suppress(ANN)
        threads = []
        if moment == "notice":

            def meanwhile() -> None:
                mta.wait_held()
                suppress(ANN)
                mta.release()

            threads = [threading.Thread(target=meanwhile)]
            threads[0].start()
        elif moment == "body":
            say = peer._say

            def slowly(letter: str, data: bytes, unanswered: int) -> None:
                say(letter, data, unanswered)
                if letter == "B":
                    suppress(ANN)

            peer._say = slowly  # type: ignore[method-assign]
        outcome = peer.message(marketing(stream="offers"))
        for thread in threads:
            thread.join()
    assert (outcome.final, outcome.reply[:10]) == ("y", "550 5.7.1 ")


@pytest.mark.parametrize("state", ["DATA", "END-OF-MESSAGE"])
def test_policy(relay: RelayProcess, mta: FakeUpstream, suppress: Act, state: str) -> None:
    with policy_client(relay.port("policy")) as postfix:
        assert postfix.rcpt(ANN) == "DUNNO"
        suppress(ANN)
        assert postfix.end(ANN, state=state).startswith("550 5.7.1 ")


@pytest.mark.parametrize("how", ["rekey", "withdraw", "erase"])
def test_suppressed_while_the_upstream_delays_its_reply_to_data(
    relay: RelayProcess, mta: FakeUpstream, suppress: Act, how: str
) -> None:
    """These come last: nothing undoes what they do."""
    person = address("desk") if how == "erase" else ANN
    mta.behaviours.append(At("data", Hold(), to=person))
    with client(relay, "apps") as peer:
        peer.send("MAIL FROM:<news@shop.example>", f"RCPT TO:<{person}>", "DATA")
        assert [peer.reply()[:3] for _ in range(3)] == ["250", "250", "354"]
        peer.send(marketing(stream="offers"), b".\r\n")
        mta.wait_held()
        if how == "rekey":
            relay.must("suppress", "rekey")
            suppress(person)
        elif how == "withdraw":
            relay.must("consent", "withdraw", person, "--purpose", "offers")
        else:
            relay.must("contact", "erase", person)
        mta.release()
        assert peer.reply().startswith("550 5.7.1 ")
    assert mta.messages == []
