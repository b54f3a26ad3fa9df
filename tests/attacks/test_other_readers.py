"""I write a header that you read one way, and the MTA or mail program behind you another way.

Then you see an unsubscribe field, or a sender, that the reader does not. In the attacker's words,
with Python's mail parser and a real Sendmail as the others.
"""

import random
import re
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest

from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.policy.features import read_features
from tests.kit.messages import marketing
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, free_port, wait_for
from tests.kit.relay import RelayProcess, listener
from tests.kit.sendmail import SendmailInstance
from tests.kit.soak import LONGEST, times
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

URI = "https://u.shop.example/1"
MINE = (b"X-A: b", b"X-A : b", b"X-A\t: b", b"--x: y", b"x" * 120 + b": y", b"X-A:\r\n \r\n b")
MINE += (b"X-A: a\x0cFrom: x@evil.example", b"X-A: a\x1eFrom: x@evil.example", b"!: b", b"a;b: c")
MINE += (b">From: x@evil.example", b"X-A: a\xc2\x85From: x@evil.example", b"Content-Length: 0")
FIELDS: dict[bytes, tuple[bytes, ...]] = {
    b"From": (
        *(b"news@shop.example", b"Shop <news@shop.example>", b'"a, b" <news@shop.example>'),
        *(b"<@evil.example:news@shop.example>", b"<,@evil.example:news@shop.example>"),
        *(b"news@evil.example .shop.example", b"news@evil.example(c).shop.example"),
        *(b'"<x@evil.example>" <news@shop.example>', b"=?utf-8?q?x=40e?= <news@shop.example>"),
    ),
    b"List-Unsubscribe": (
        *(b"<%b>" % URI.encode(), b"<mailto:stop@shop.example>,\r\n\t<%b>" % URI.encode()),
        *(b"\r\n \r\n <%b>" % URI.encode(), b"(c) <%b> (d)" % URI.encode()),
    ),
    b"List-Unsubscribe-Post": (b"List-Unsubscribe=One-Click",),
    b"Subject": (b"New", b"New\r\n shoes"),
}


def header(dice: random.Random) -> bytes:
    """The fields of a marketing message, in any order, with lines of mine in between."""
    lines = []
    for name, values in FIELDS.items():
        written = dice.choice((name, name, name, name.lower(), name + b" "))
        lines.append(written + b": " + dice.choice(values))
    lines += dice.choices(MINE, k=dice.randrange(3))
    dice.shuffle(lines)
    return b"\r\n".join((*lines, b"", b""))


@pytest.mark.soak
@pytest.mark.timeout(LONGEST)
def test_python_reads_what_you_accept_the_same_way() -> None:
    dice, accepted = random.Random(8058), 0
    for _ in range(times(600, 60_000)):
        raw = header(dice)
        found = read_features(HeaderBlock(raw), "X-Mail-Stream")
        if found.malformed is not None:
            continue
        accepted += 1
        read: EmailMessage = message_from_bytes(raw, policy=policy.SMTP)
        uris = re.findall(r"<(https:[^>]*)>", str(read["List-Unsubscribe"]))
        assert (uris, found.unsubscribe_https) == ([URI], (URI,)), raw
        assert (read["List-Unsubscribe-Post"], found.one_click) == (
            "List-Unsubscribe=One-Click",
            True,
        )
        domains = tuple(each.domain for each in read["From"].addresses)
        assert domains == found.from_domains == ("shop.example",), raw
    assert accepted > 50


def link(octets: int) -> str:
    """An https URI that makes a line of List-Unsubscribe that long."""
    head = f"List-Unsubscribe: <{URI}/"
    return f"{URI}/{'x' * (octets - len(head) - 1)}"


@pytest.fixture(scope="module")
def relay(
    filled: Callable[..., RelayProcess], mta: FakeUpstream
) -> Iterator[tuple[RelayProcess, FakeUpstream]]:
    port = free_port()
    options = f"DAEMON_OPTIONS(`Port={port}, Addr={LOOPBACK}, Name=MTA')dnl"
    listeners = [
        listener("apps", "offers", default="offers"),
        listener("till", "receipts", default="receipts"),
    ]
    with SendmailInstance(mta.address, options, port):
        yield filled(f"{LOOPBACK}:{port}", {"listener": listeners}), mta


ODD = [
    ("a" * 100, URI, ""),
    ("a" * 101, URI, "554 5.6.0"),
    ("--a", URI, "554 5.6.0"),
    ("-a", URI, ""),
    ("X-A", link(990), ""),
    ("X-A", link(991), "550 5.7.0"),
]


@needs("sendmail")
@pytest.mark.parametrize(("name", "uri", "refusal"), ODD)
def test_sendmail_keeps_the_unsubscribe_fields_of_what_you_accept(
    relay: tuple[RelayProcess, FakeUpstream], name: str, uri: str, refusal: str
) -> None:
    """It takes a field with an odd name for the start of the body, and truncates long lines."""
    process, mta = relay
    about = f"<{len(name)}{name[:2]}{len(uri)}@shop.example>"
    mail = marketing(unsubscribe=f"<{uri}>", message_id=about).replace(
        b"Message-ID:", name.encode() + b": b\r\nMessage-ID:"
    )
    code, text = process.send(mail, address("consent"), listener="apps")
    if refusal:
        assert f"{code} {text}".startswith(refusal)
        return
    assert code == 250
    (got,) = wait_for(lambda: [m for m in mta.messages if about.encode() in m.data], "the mail")
    assert f"<{uri}>" in str(message_from_bytes(got.data)["List-Unsubscribe"])


LEFT = ["x" * 234, "x " * 117, f'"{"x," * 115}"', "xxx " * 84, "x/" * 120 + "x/y " * 85]
LEFT += [f"=?utf-8?q?{'=D0=BC' * 10}?=\r\n " * 7]
CUT = ["x" * 235, "x" * 244, "x " * 126, "xx\r\n " * 60, "x " * 120 + "y" * 260, "x/y " * 150]


@needs("sendmail")
@pytest.mark.parametrize("name", [*LEFT, *CUT])
def test_sendmail_keeps_the_sender_of_what_you_accept(
    relay: tuple[RelayProcess, FakeUpstream], name: str
) -> None:
    """It truncates an address that exceeds 256 octets with its name, and drops a longer name."""
    process, mta = relay
    about = f"<{[*LEFT, *CUT].index(name)}.name@shop.example>"
    mail = marketing(sender=f"{name} <news@shop.example>", message_id=about)
    code, _ = process.send(mail, address("consent"), listener="apps")
    if name in CUT:
        assert code == 554
        return
    assert code == 250
    (got,) = wait_for(lambda: [m for m in mta.messages if about.encode() in m.data], "the mail")
    read: EmailMessage = message_from_bytes(got.data, policy=policy.SMTP)
    assert [each.addr_spec for each in read["From"].addresses] == ["news@shop.example"]


@needs("sendmail")
@pytest.mark.parametrize("dots", [".", "..", "..."])
def test_sendmail_strips_trailing_dots_of_a_route(
    relay: tuple[RelayProcess, FakeUpstream], dots: str
) -> None:
    process, mta = relay
    routed = f'"{address("complained")}{dots}"@mx.example'
    code, text = process.send(marketing(), routed, listener="till")
    assert (code, "suppressed_complaint" in text) == (550, True)
    assert not [m for m in mta.messages if address("complained") in m.recipients]
