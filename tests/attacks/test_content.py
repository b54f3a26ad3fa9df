"""The attacker may send mail, and sends content that would keep the worker busy."""

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from socket import SHUT_WR
from time import process_time
from typing import Any

import pytest

from smtpproxy.core import content_checks
from smtpproxy.intake import session
from smtpproxy.intake.milter import MilterSession
from smtpproxy.intake.session import AT_ONCE
from smtpproxy.intake.smtp import SmtpSession
from smtpproxy.mail import dmarc
from smtpproxy.mail.cutting import CannotCut
from smtpproxy.mail.dkim import _listed, signed_names, unsigned_field
from smtpproxy.mail.dkim_canonical import SIGNED, BodyHash, to_sign
from smtpproxy.mail.dmarc import all_aligned
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.mailboxes import MailboxError, addresses
from smtpproxy.mail.mime import read_body, read_texts
from smtpproxy.mail.visible_text import VisibleText, visible_text
from smtpproxy.policy.bulk import bulk_signs
from smtpproxy.policy.bulk_text import mentions_unsubscribing, newsletter_signs
from smtpproxy.policy.content_checks import check_content, fingerprint
from smtpproxy.policy.features import read_features, read_identity
from smtpproxy.policy.model import Alignment, MessageFeatures, Stream, StreamClass
from smtpproxy.policy.pixels import pixels_of, without_pixels
from smtpproxy.relay.dkim_signing import Keyring
from smtpproxy.wire.commands import Hello, Mail, Rcpt
from smtpproxy.wire.content import ContentReader
from smtpproxy.wire.milter import MilterConnection
from smtpproxy.wire.server import ServerConnection
from smtpproxy.wire.session import NEED_DATA, Terms
from tests.intake.conftest import Listen
from tests.kit import soak
from tests.kit.messages import marketing
from tests.kit.mta import encode, mta, strings
from tests.kit.relay import STREAMS
from tests.wire.feeding import accept

pytestmark = pytest.mark.soak
FOUR = 4
"""For this many times the octets, the work may grow by at most twice that factor."""

# reading takes time in proportion to the size


def times(work: Callable[[bytes], object], unit: bytes, octets: int) -> float:
    """How many times longer four times as many octets take; `make soak` uses more.

    Both are repeated while it seems to take too long, which other load may cause.
    """

    def seconds(data: bytes) -> float:
        began = process_time()
        work(data)
        return process_time() - began

    octets = soak.times(octets // 3, octets)
    small, large = unit * (octets // len(unit)), unit * (FOUR * octets // len(unit))
    shortest = float("inf")
    for _ in range(4):
        shortest = min(shortest, max(seconds(small), 0.0005))
        if (found := seconds(large) / shortest) < 2 * FOUR:
            break
    return found


def read_header(section: bytes) -> None:
    headers = HeaderBlock(b"From: a@b.example\r\n" + section + b"\r\n")
    read_features(headers, "X-Mail-Stream", "X-Source-Statement")
    read_identity(headers)
    bulk_signs(headers, "")
    to_sign(headers.values_by_name(SIGNED))
    headers.without("X-Mail-Stream")


@pytest.mark.parametrize(
    "unit",
    [
        b"A:\r\n",
        b" \r\n",
        b"x\r\n",
        b"x",
        b"x ",
        b"(",
        b"List-Unsubscribe: " + b"(" * 1_000 + b"\r\n",
        b"List-Unsubscribe: <https://a.b/" + b"__a" * 300 + b">\r\n",
        b"List-Unsubscribe: <https://a.b/" + b"%7B%7B" * 150 + b">\r\n",
        b"Subject: =?utf-8?q?a?= =?utf-8?q?b?=\r\n",
        b"DKIM-Signature: ;d=;d=;d=;d=\r\n",
        b"X-Mailer: " + b"campaign " * 50 + b"\r\n",
        b"X-Mail-Stream: a\r\n",
        b"Subject: a" + b"  a" * 300 + b"\r\n",
    ],
    ids=lambda unit: repr(unit[:24]),
)
def test_reading_header_sections_takes_linear_time(unit: bytes) -> None:
    assert times(read_header, unit, 60_000) < 2 * FOUR


@pytest.mark.parametrize("unit", [b"(", b"()", b"a ", b"a@b.example,", b'"\\a" ', b"<", b"=?"])
def test_reading_from_fields_takes_linear_time(unit: bytes) -> None:
    def read(value: bytes) -> None:
        with suppress(MailboxError):
            addresses(value)

    assert times(read, unit, 4_000) < 2 * FOUR


PLAIN = b"\r\n"
HTML = b"Content-Type: text/html\r\n\r\n"
PARTS = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"


def read_text(header: bytes) -> Callable[[bytes], None]:
    def read(body: bytes) -> None:
        shown = visible_text(read_body(HeaderBlock(header), body))
        mentions_unsubscribing(shown.text)
        newsletter_signs(shown.text)
        fingerprint(shown, ["jeanne.doe@b.example"], ["Jeanne Doe"])

    return read


@pytest.mark.parametrize(
    ("header", "unit"),
    [
        *((HTML, unit) for unit in (b"<", b"<a ", b'<a href="', b"<a b='\">\"'", b"<!--", b"&aa")),
        *(
            (HTML, unit)
            for unit in (b"<p style='display:x'>", b"<p hidden>", b"&#1", b"<a href=a>")
        ),
        *(
            (b"\r\n", unit)
            for unit in (b"a", b"a ", b"a@", b"hi ", b"http://a ", b"\xff", b"\xc3\xa9")
        ),
        *(
            (PARTS, unit)
            for unit in (b"\r\n--b\r\n", b"\r\n--bx", b"--b\r\n\r\n", b"\r\n--b" + b" " * 90)
        ),
        (PARTS, b"\r\n--b\r\n" + b"A:\r\n" * 500 + b"\r\n"),
    ],
    ids=lambda part: repr(part[:24]),
)
def test_reading_texts_takes_linear_time(header: bytes, unit: bytes) -> None:
    assert times(read_text(header), unit, 100_000) < 2 * FOUR


QUOTED = b"Content-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
ENCODED = b"Content-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\n"
PIXEL = b"<img src=//t.example/o?i=1 width=1>"


@pytest.mark.parametrize(
    ("header", "unit"),
    [
        *(
            (HTML, unit)
            for unit in (b"<img ", b"<img '>", b'<img a="', b"<!--", b"<!--[if", b"<img>")
        ),
        *(
            (HTML, unit)
            for unit in (b"<style>", b"</style><style>", b"<img src=//", b"<img a=b c='")
        ),
        *((HTML, unit) for unit in (b"<img", b"</style", b"<a\t", b"<a =\t", b"<!", b"<a b=c>")),
        *((HTML, unit) for unit in (b"<p title='<x='", b"<p style='a:url(", b"<td background=a>")),
        *((HTML, b"<img srcset='" + unit * 60 + b"'>") for unit in (b",", b", ", b"//a 1x,")),
        *((HTML, b"<img " + unit * 60 + b">") for unit in (b"a=b ", b"style='width:1;' ", b"&#1")),
        *((HTML, b"<img src=//" + unit * 90 + b" width=1 height=1>") for unit in (b"a/", b"/0aA")),
        *((header, PIXEL) for header in (HTML, QUOTED)),
        (QUOTED, b"=\r\n=41" + PIXEL),
        (ENCODED, b"PGltZyBzcmM9Ly90LmV4YW1wbGUvbz9pPTEgd2lkdGg9MT4g"),
    ],
    ids=lambda part: repr(part[:24]),
)
def test_looking_for_pixels_takes_linear_time(header: bytes, unit: bytes) -> None:
    def read(body: bytes) -> None:
        headers = HeaderBlock(header)
        pixels_of(read_texts(headers, body)[0])
        with suppress(CannotCut):
            without_pixels(headers, body)

    assert times(read, unit, 60_000) < 2 * FOUR


@pytest.mark.parametrize("unit", [b"a  ", b" ", b"\r\n", b" \r\n", b"\t\r\n ", b"."])
def test_hashing_bodies_takes_linear_time(unit: bytes) -> None:
    def read(body: bytes) -> None:
        hashed = BodyHash()
        hashed.feed(body)
        hashed.digest()

    assert times(read, unit, 250_000) < 2 * FOUR


@pytest.mark.parametrize("unit", [b"\n", b"\r", b"\n.", b"\r\n.\n", b"\r\n"])
def test_rewriting_line_ends_takes_linear_time(unit: bytes) -> None:
    assert times(lambda data: ContentReader("normalize").feed(data), unit, 100_000) < 2 * FOUR


def test_chunks_of_one_octet_take_linear_time() -> None:
    """One read has thousands of them: the rest must not be copied for each."""

    def read(data: bytes) -> None:
        engine = ServerConnection(Terms(hostname="relay.example", size_limit=10**9))
        engine.receive_data(
            b"EHLO a\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n" + data
        )
        while (event := engine.next_event()) is not NEED_DATA:
            if isinstance(event, (Hello, Mail, Rcpt)):
                engine.answer(accept(event))

    assert times(read, b"BDAT 1\r\nx", 100_000) < 2 * FOUR


# what is cached from one message to the next


def test_overlong_names_are_not_cached() -> None:
    senders = senders_of(b"DKIM-Signature: d=" + b"a" * 100_000 + b"; s=b\r\n")
    assert senders == ("b.example",)
    assert senders_of(b"DKIM-Signature: d=" + b"a" * 255 + b"; s=b\r\n")[1:] == ("a" * 255,)


def senders_of(field: bytes) -> tuple[str, ...]:
    stream = Stream("offers", StreamClass.MARKETING, alignment=Alignment.RELAXED)
    headers = HeaderBlock(b"From: a@b.example\r\n" + field + b"\r\n")
    found = check_content(stream, MessageFeatures(), headers, "a@b.example", None)
    assert found.content is not None
    return found.content.senders


def test_the_cache_of_keys_by_domain_is_bounded() -> None:
    keyring = Keyring({})
    now = datetime(2026, 3, 1, tzinfo=UTC)
    many = tuple(f"{n}.example" for n in range(1_000))
    assert keyring.in_force(many, "offers", now) == ()
    assert keyring.in_force(("a.example",) * 1_000, "offers", now) == ()
    assert sum(len(str(key)) for key in keyring._remembered) < 100


def test_signed_fields_are_cached_only_if_few() -> None:
    before = _listed.cache_info().currsize
    names = (b"subject",) * 900
    field = unsigned_field("rsa-sha256", "a.example", "s", 0, names, b"x")
    assert signed_names(field + b"eA==\r\n") == {b"subject"}
    assert _listed.cache_info().currsize == before


def test_address_literals_with_the_same_end_are_not_one_organisation() -> None:
    assert not all_aligned(["[192.0.2.1]"], ["[198.51.2.1]"])
    assert all_aligned(["[192.0.2.1]"], ["[192.0.2.1]"])


def test_thousands_of_from_domains_are_compared_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def organisation(domain: str) -> str:
        asked.append(domain)
        return "one.example"

    monkeypatch.setattr(dmarc, "organisational_domain", organisation)
    ours = [f"{n}.a.example" for n in range(1_000)]
    assert all_aligned(ours, [f"{n}.b.example" for n in range(20)])
    assert len(asked) == 1_020


# others get their turn


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of events that each session handled in each turn of the loop."""
    counts: list[int] = []
    for kind, engine in ((SmtpSession, ServerConnection), (MilterSession, MilterConnection)):
        _count(monkeypatch, counts, kind, engine)
    return counts


def _count(monkeypatch: pytest.MonkeyPatch, counts: list[int], kind: Any, engine: Any) -> None:
    go_on, next_event = kind._handle_events, engine.next_event

    def turn(self: Any) -> None:
        if not self._handling:
            counts.append(0)
        go_on(self)

    def event(self: Any) -> Any:
        counts[-1] += 1
        return next_event(self)

    monkeypatch.setattr(kind, "_handle_events", turn)
    monkeypatch.setattr(engine, "next_event", event)


def test_thousands_of_commands_in_one_write_leave_turns_to_others(
    listen: Listen, turns: list[int]
) -> None:
    intake = listen()
    with intake.client() as client:
        client.greet()
        client.send(b"NOOP\r\n" * 20_000 + b"QUIT\r\n")
        client.socket.shutdown(SHUT_WR)
        replies = client.rest()
    assert [reply[:3] for reply in replies] == ["250"] * 20_000 + ["221"]
    assert max(turns) <= AT_ONCE


def test_thousands_of_chunks_in_one_write_leave_turns_to_others(
    listen: Listen, turns: list[int]
) -> None:
    intake = listen()
    mail = marketing()
    with intake.client() as client:
        client.greet()
        client.send("MAIL FROM:<news@shop.example>", "RCPT TO:<consent@people.example>")
        assert [reply[:3] for reply in client.replies(2)] == ["250", "250"]
        chunks = [b"BDAT 1\r\n%c" % octet for octet in mail * 10]
        client.send(*chunks, b"BDAT 0 LAST\r\n")
        assert {reply[:3] for reply in client.replies(len(chunks) + 1)} == {"250"}
    assert max(turns) <= AT_ONCE


def test_thousands_of_milter_fields_and_chunks_leave_turns_to_others(
    listen: Listen, turns: list[int]
) -> None:
    milter = listen(protocol="milter")
    with mta(milter.port) as peer:
        peer.negotiate()
        peer.connect()
        for hostile, final in ((encode("L", strings("A", "")), "y"), (encode("B", b"x"), "y")):
            peer.mail("news@shop.example")
            assert peer.rcpt("consent@people.example").final == "c"
            peer.send(hostile * 50_000, encode("E"))
            assert peer.outcome().final == final
    assert max(turns) <= AT_ONCE


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_a_session_made_to_wait_loses_nothing(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(session, "AT_ONCE", at_once)
    intake = listen(early_commands="permit")
    message = b"MAIL FROM:<news@shop.example>\r\nRCPT TO:<consent@people.example>\r\nDATA\r\n"
    with intake.client() as client:
        client.send(
            b"EHLO a.example\r\n" + (message + marketing() + b".\r\n") * 3 + b"NOOP\r\n" * 9
        )
        client.socket.shutdown(SHUT_WR)
        codes = [reply[:3] for reply in client.rest() if reply[3:4] == " "]
    assert codes == ["220", "250", *["250", "250", "354", "250"] * 3, *["250"] * 9]
    assert intake.wait_closed() == ["eof"]


@pytest.mark.parametrize(("octets", "apart"), [(1_000, False), (100_000, True)])
def test_a_large_text_is_read_in_a_thread(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, octets: int, apart: bool
) -> None:
    readers: list[int] = []

    def read(*arguments: Any) -> VisibleText:
        readers.append(threading.get_ident())
        return read_visible(*arguments)

    read_visible = content_checks._visible_text
    monkeypatch.setattr(content_checks, "_visible_text", read)
    intake = listen({"stream": [{**stream, "body_optout": True} for stream in STREAMS[:1]]})
    loop = intake.call(_thread()).result(10)
    body = "Unsubscribe: https://unsubscribe.shop.example/x\r\n" + "x\r\n" * (octets // 3)
    with intake.client() as client:
        client.greet()
        client.begin()
        assert client.say(marketing(body=body), ".").startswith("250 ")
    assert [reader != loop for reader in readers] == [apart]


async def _thread() -> int:
    return threading.get_ident()
