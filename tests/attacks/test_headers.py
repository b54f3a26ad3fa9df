"""The attacker may send mail, and sends headers that cost more to read than to write."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from smtpproxy.events import Failed, Limited
from smtpproxy.relay.content import Content, Spool
from smtpproxy.wire.content import HeaderCounter
from smtpproxy.wire.session import ContentProblem, HeaderLimits
from tests.cli.stored import Stored
from tests.intake.conftest import Listen
from tests.intake.listening import Client, Intake
from tests.kit.messages import marketing
from tests.kit.mta import Mta, encode, fields, mta, strings
from tests.kit.ports import wait_for
from tests.kit.relay import STREAMS, relay_config
from tests.kit.toml import to_toml
from tests.kit.upstream import FakeUpstream
from tests.wire.feeding import cut

LIMIT = 256 * 1024
TOO_LARGE = f"552 5.3.4 header section is larger than the limit of {LIMIT} octets"
TOO_MANY = "554 5.6.0 header section has more fields than the limit of 1000"
BODY = b"\r\nNew shoes are in.\r\n"
MAIL = marketing()
HEAD = MAIL[: MAIL.index(b"\r\n\r\n") + 2]
FIELDS = HEAD.count(b"\r\n")
EMPTY = b"A:\r\n"

HOSTILE = {
    "a million empty fields": (EMPTY * 1_000_000, TOO_MANY),
    "fields that just fit in octets": (EMPTY * 60_000, TOO_MANY),
    "one field too many": (EMPTY * (1_001 - FIELDS), TOO_MANY),
    "a field of 4 MB": (b"Subject: " + b"x" * 4_000_000 + b"\r\n", TOO_LARGE),
    "a field folded a million times": (b"Subject: x\r\n" + b" \r\n" * 1_000_000, TOO_LARGE),
    "nested comments": (b"List-Unsubscribe: " + b"(" * 4_000_000 + b"\r\n", TOO_LARGE),
    "signatures": (b"DKIM-Signature: v=1; d=a; h=from\r\n" * 100_000, TOO_MANY),
    "lines that are no fields": (b"x\r\n" * 1_000_000, TOO_MANY),
    "nothing that ends a line": (b"x" * 4_000_000, TOO_LARGE),
}
WITHIN = {
    "as many fields as may be": EMPTY * (1_000 - FIELDS),
    "as many octets as may be": b"X: " + b"y" * (LIMIT - len(HEAD) - 5) + b"\r\n",
    "a field of many lines": b"X: y\r\n" + b" z\r\n" * 20_000,
}

# what is refused, and how


def send_data(client: Client, content: bytes) -> str:
    client.begin()
    client.socket.sendall(content)
    return client.say("\r\n.")


def send_chunks(client: Client, content: bytes) -> str:
    client.send("MAIL FROM:<news@shop.example>", "RCPT TO:<consent@people.example>")
    assert [reply[:3] for reply in client.replies(2)] == ["250", "250"]
    half = len(content) // 2
    client.send(f"BDAT {half}", content[:half])
    client.send(f"BDAT {len(content) - half} LAST", content[half:])
    return client.replies(2)[1]


SENDERS: Sequence[Callable[[Client, bytes], str]] = [send_data, send_chunks]


@pytest.mark.parametrize("send", SENDERS)
@pytest.mark.parametrize("name", HOSTILE)
def test_an_excessive_header_is_refused_naming_the_limit(
    listen: Listen, upstream: FakeUpstream, send: Callable[[Client, bytes], str], name: str
) -> None:
    intake = listen()
    hostile, reply = HOSTILE[name]
    with intake.client() as client:
        client.greet()
        assert send(client, HEAD + hostile + BODY) == reply
        wait_for(lambda: intake.door.spool.in_memory == 0, "nothing kept")
        assert send_data(client, MAIL).startswith("250 ")
    limit = "header_size" if reply == TOO_LARGE else "header_fields"
    assert [event.limit for event in intake.of(Limited)] == [limit]
    assert len(intake.records.decided) == len(upstream.messages) == 1


@pytest.mark.parametrize("send", SENDERS)
@pytest.mark.parametrize("name", WITHIN)
def test_a_header_at_the_limit_is_relayed(
    listen: Listen, upstream: FakeUpstream, send: Callable[[Client, bytes], str], name: str
) -> None:
    intake = listen()
    with intake.client() as client:
        client.greet()
        assert send(client, HEAD + WITHIN[name] + BODY).startswith("250 ")
    assert WITHIN[name] in upstream.messages[0].data


def test_a_header_section_that_is_too_large_is_refused(listen: Listen) -> None:
    config = {"server": {"header_size_limit": "4KiB"}, "policy": {"mode": "observe"}}
    intake = listen(config)
    with intake.client() as client:
        client.greet()
        reply = "552 5.3.4 header section is larger than the limit of 4096 octets"
        assert send_data(client, HEAD + b"X: " + b"y" * 4_000 + b"\r\n" + BODY) == reply
    assert [event.limit for event in intake.of(Limited)] == ["header_size"]


def test_a_header_section_with_too_many_fields_is_refused(listen: Listen) -> None:
    intake = listen({"server": {"max_header_fields": 20}})
    with intake.client() as client:
        client.greet()
        reply = "554 5.6.0 header section has more fields than the limit of 20"
        assert send_data(client, HEAD + EMPTY * 15 + BODY) == reply
    assert [event.limit for event in intake.of(Limited)] == ["header_fields"]


def test_with_a_reply_per_recipient_each_says_so(listen: Listen) -> None:
    intake = listen(protocol="lmtp")
    with intake.client() as client:
        assert client.reply().startswith("220 ")
        assert client.say("LHLO client.example").startswith("250 ")
        client.begin("consent@people.example", "customer@people.example")
        client.send(HEAD, EMPTY * 2_000, BODY, ".")
        assert client.replies(2) == [TOO_MANY] * 2


@pytest.mark.parametrize("sizes", [(), (1,), (3,), (2, 5)])
@pytest.mark.parametrize(
    ("section", "fields", "size"),
    [
        (b"\r\nX: y\r\n", 0, 0),
        (b"X: y\r\n\r\nZ: y\r\n\r\n", 1, 6),
        (b"X: y\r\n z\r\n\tz\r\nY:\r\n\r\n", 2, 18),
        (b" z\r\n\r\n", 0, 4),
        (b"\r\n\r\n", 0, 0),
        (b"X: y\r\nY: z", 2, 10),
        (b"X: y\r\nY: z\r\n", 2, 12),
    ],
)
def test_a_header_is_counted_the_same_however_it_is_split(
    section: bytes, fields: int, size: int, sizes: Sequence[int]
) -> None:
    def problem(limits: HeaderLimits) -> ContentProblem | None:
        count = HeaderCounter(limits)
        for piece in _whole_line_ends(section, sizes):
            if not count.ended:
                count.feed(piece)
        return count.problem

    assert problem(HeaderLimits(size, fields)) is None
    if fields:
        assert problem(HeaderLimits(size, fields - 1)) is ContentProblem.TOO_MANY_FIELDS
    if size:
        assert problem(HeaderLimits(size - 1, fields)) is ContentProblem.HEADER_TOO_LARGE


def _whole_line_ends(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """Pieces that do not split a CRLF, like those of the engine."""
    pieces = [b""]
    for piece in cut(data, sizes):
        if pieces[-1].endswith(b"\r"):
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return pieces


# an MTA that asks a milter


def begin(peer: Mta) -> None:
    peer.negotiate()
    peer.connect()


def ask(peer: Mta, message: bytes) -> str:
    peer.mail("news@shop.example")
    assert peer.rcpt("consent@people.example").final == "c"
    outcome = peer.message(message)
    return outcome.reply or outcome.final


def test_the_milter_applies_the_same_limits(listen: Listen) -> None:
    milter = listen(protocol="milter")
    with mta(milter.port) as peer:
        begin(peer)
        large = b"".join(b"X-%d: %b\r\n" % (n, b"v" * 60_000) for n in range(80))
        for hostile, reply in ((EMPTY * 30_000, TOO_MANY), (large, TOO_LARGE)):
            assert ask(peer, HEAD + hostile + BODY) == reply
            wait_for(lambda: milter.door.spool.in_memory == 0, "nothing kept")
        assert ask(peer, HEAD + EMPTY * (1_000 - FIELDS) + BODY) == "c"
    assert [event.limit for event in milter.of(Limited)] == ["header_fields", "header_size"]
    assert len(milter.records.decided) == 1


def reading_text(listen: Listen, **server: object) -> Intake:
    """A milter whose stream needs the text of messages, and so keeps it."""
    streams = [
        {**stream, "body_optout": True} if stream["name"] == "offers" else stream
        for stream in STREAMS
    ]
    return listen({"stream": streams, "server": server}, protocol="milter")


def test_text_that_a_milter_keeps_goes_to_the_spool(listen: Listen) -> None:
    milter = reading_text(listen, spool_threshold="64KiB")
    with mta(milter.port) as peer:
        begin(peer)
        peer.mail("news@shop.example")
        assert peer.rcpt("consent@people.example").final == "c"
        peer.send(*(encode("L", strings(*field)) for field in fields(HEAD[:-2])))
        peer.send(*[encode("B", b"x" * 60_000)] * 30)
        wait_for(lambda: on_disk(milter) == 1, "the text on disk")
        assert milter.door.spool.in_memory <= 2 * 64 * 1024
        peer.send(encode("E"))
        assert peer.outcome().reply.startswith("550 5.7.0 refused: body_optout_missing")
    milter.wait_closed()
    wait_for(lambda: milter.door.spool.in_memory == 0, "nothing kept")


def test_a_milter_defers_messages_it_has_no_room_for(listen: Listen) -> None:
    milter = reading_text(listen, spool_threshold="64KiB")
    milter.spool.rmdir()
    with mta(milter.port) as peer:
        begin(peer)
        assert ask(peer, MAIL + b"x" * 200_000).startswith("452 4.3.1 ")
        assert ask(peer, MAIL + b"Unsubscribe: https://unsubscribe.shop.example/x\r\n") == "c"
    assert [event.part for event in milter.of(Failed)] == ["spool"]


# explain


@pytest.mark.parametrize(
    ("hostile", "reply"),
    [(EMPTY * 2_000, TOO_MANY), (b"X: " + b"y" * LIMIT + b"\r\n", TOO_LARGE)],
)
@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_explain_agrees_with_the_relay(
    tmp_path: Path, hostile: bytes, reply: str, mode: str
) -> None:
    stored = Stored(tmp_path)
    document = relay_config(tmp_path, "127.0.0.1:9", {"policy": {"mode": mode}})
    stored.config_path.write_text(to_toml(document))
    stored.run("suppress", "add", "somebody@people.example")
    message = stored.file("message.eml", HEAD + hostile + BODY)
    options = ("--mail-from", "news@shop.example", "--rcpt", "a@people.example")
    found = stored.json("explain", message, *options, code=1)["message"]
    assert (found["verdict"], found["reason"]) == ("refuse", "none")
    assert found["reply"] == reply


# memory


def test_endless_headers_do_not_fill_the_memory(listen: Listen) -> None:
    intake = listen()
    spool = intake.door.spool
    spool._memory = 1_000_000
    clients = [intake.client() for _ in range(20)]
    opened = [client.__enter__() for client in clients]
    for client in opened:
        client.greet()
        client.begin()
        client.socket.sendall(HEAD + b"X: " + b"y" * 200_000)
    wait_for(lambda: on_disk(intake) >= 15, "headers on disk")
    assert spool.in_memory <= 1_000_000 + 20 * 16 * 1024 + 256 * 1024
    for client in opened:
        assert client.say("", BODY.decode(), ".").startswith("250 ")
    for context in clients:
        context.__exit__(None, None, None)
    wait_for(lambda: spool.in_memory == 0, "nothing kept")


def on_disk(intake: Intake) -> int:
    """The number of unnamed files open in the spool."""
    links = Path("/proc/self/fd").iterdir()
    return sum(str(intake.spool) in str(link.readlink()) for link in links if link.is_symlink())


def test_octets_in_pairs_cost_no_more_than_others(tmp_path: Path) -> None:
    content = Content(Spool(tmp_path, 1_000_000))
    for _ in range(100_000):
        content.append(b"xy")
    assert len(content._chunks) <= 200_000 // 2_000
    assert b"".join(content.pieces()) == b"xy" * 100_000
    content.close()
